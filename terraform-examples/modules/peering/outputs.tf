output "objects" {
  description = "By cluster, the MeshPeer to put there, as YAML: what that cluster accepts from the other one."
  value = {
    for it in var.clusters : it.name => one([for name, object in local.said_of : object if name != it.name])
  }
}
