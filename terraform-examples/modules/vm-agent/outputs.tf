output "user_data" {
  description = "cloud-init's cloud-config: it installs the agent, writes its options and joins. None without a token."
  value       = var.token == null ? null : "#cloud-config\n${yamlencode(local.cloud_config)}"
  sensitive   = true

  precondition {
    condition     = length(yamlencode(local.cloud_config)) <= 16000
    error_message = "The user data are larger than the 16 KiB that every cloud takes: is the token the whole line, or are there too many options?"
  }
}

output "external_workload" {
  description = "The object that makes the machine a VM of its cluster, as YAML: for GitOps, instead of add_command."
  value = yamlencode({
    apiVersion = "clustermesh.io/v1alpha1"
    kind       = "ExternalWorkload"
    metadata   = { name = var.name, namespace = var.namespace }
    spec       = local.workload
  })
}

output "add_command" {
  description = "What writes the same object, and prints the line with the token."
  value       = join(" ", local.add)
}

output "token_command" {
  description = "What prints the line with a token for a VM whose object is there."
  value       = "meshctl vm token ${var.name} --cluster ${var.cluster}"
}
