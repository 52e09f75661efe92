# What the mesh has to say: needs no provider. What Hetzner has to say is in cloud.tf.

module "vm" {
  source         = "../modules/vm-agent"
  for_each       = var.vms
  name           = each.key
  cluster        = var.core
  token          = lookup(var.tokens, each.key, null)
  namespace      = each.value.namespace
  labels         = each.value.labels
  read           = each.value.read
  serve          = each.value.serve
  package        = var.package
  package_sha256 = var.package_sha256
}

module "peering" {
  source   = "../modules/peering"
  count    = var.peering == null ? 0 : 1
  clusters = var.peering
}

# Only a warning: machines that have joined need no token any more.
check "every_new_machine_has_a_token" {
  assert {
    condition     = length(setsubtract(keys(var.vms), nonsensitive(keys(var.tokens)))) == 0
    error_message = "A machine that is made now without a token cannot join: run its command of the output add_commands, and give what it prints in tokens."
  }
}

output "add_commands" {
  description = "By VM, what adds it to the core and prints the line with its token."
  value       = { for name, vm in module.vm : name => vm.add_command }
}

output "external_workloads" {
  description = "By VM, its object as YAML, for GitOps instead of add_commands."
  value       = { for name, vm in module.vm : name => vm.external_workload }
}

output "mesh_peers" {
  description = "By cluster, the MeshPeer to put there, as YAML."
  value       = one(module.peering[*].objects)
}
