output "core" {
  description = "Where the core's nodes belong: their subnet, and the group with the mesh's two ports."
  value       = { vpc = aws_vpc.core.id, subnet = aws_subnet.core.id, security_group = aws_security_group.core.id }
}

output "vm_addresses" {
  description = "By VM, its address on the Internet. The mesh needs none of them."
  value       = { for name, vm in aws_instance.vm : name => vm.public_ip }
}
