output "MESHCONFIG" {
  description = "For meshctl, on the operator's machine: `mesh-lab exec host/admin -- meshctl …`."
  value       = local.lab.MESHCONFIG
}

output "legacy" {
  description = "The object that `meshctl vm add` wrote, for a GitOps tool that would own it instead."
  value       = module.legacy.external_workload
}
