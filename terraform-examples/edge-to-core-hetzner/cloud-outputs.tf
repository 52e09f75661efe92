output "core" {
  description = "Where the core's servers belong: their network, and the label by which they get the mesh's two ports."
  value       = { network = hcloud_network.core.id, label = "mesh=core" }
}

output "vm_addresses" {
  description = "By VM, its address on the Internet. The mesh needs none of them."
  value       = { for name, vm in hcloud_server.vm : name => vm.ipv4_address }
}
