# No provider: `terraform_data` and `local-exec` are OpenTofu's own.
terraform {
  required_version = ">= 1.9"
}
