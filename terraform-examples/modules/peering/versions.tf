# No provider: what is rendered here is text. Validations that look at two variables need 1.9.
terraform {
  required_version = ">= 1.9"
}
