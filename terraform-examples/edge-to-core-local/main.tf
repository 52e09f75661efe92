# A core, and edge sites that use its database. The machines come from the lab; everything else is what an operator types.
#
#   machines ─▶ cluster ─▶ objects ─▶ node ─▶ peering ─▶ legacy ─▶ ready
#
# Each step is done by the resource's commands, and undone when the resource is destroyed, in the opposite order.

locals {
  # One file says which machines there are and which ranges they have.
  topology = yamldecode(file("${path.module}/topology.yaml"))
  clusters = local.topology.clusters
  edges    = setsubtract(keys(local.clusters), ["core"])
  nodes = merge([
    for cluster, it in local.clusters : { for node in keys(it.nodes) : "${cluster}/${node}" => { cluster = cluster, node = node } }
  ]...)

  # By which addresses a cluster's apiserver is reached, tried in order: by its box's from outside, and by its own from
  # behind the box, which hands nothing back in.
  advertised = {
    for cluster, it in local.clusters : cluster => join(",", [
      for machine in [try(local.topology.nats[it.hosts.control.behind], null), it.hosts.control] :
      "${machine.addresses[0]}:2379" if machine != null
    ])
  }

  # The environment of all commands. `$STATE` is seen under this path by every machine of the lab.
  lab = {
    PATH       = "${abspath(var.bin)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    LAB        = local.topology.name
    STATE      = "/run/mesh-lab/${local.topology.name}"
    MESHCONFIG = join(":", [for cluster in keys(local.clusters) : "/run/mesh-lab/${local.topology.name}/${cluster}/data/admin/config.yaml"])
  }
  bash = ["/bin/bash", "-euo", "pipefail", "-c"]
}

resource "terraform_data" "machines" {
  input            = local.lab
  triggers_replace = [for file in ["topology.yaml", "database.sh", "till.sh"] : filesha256("${path.module}/${file}")]

  provisioner "local-exec" {
    interpreter = local.bash
    environment = self.input
    working_dir = path.module
    command     = "mesh-lab up topology.yaml"
  }

  provisioner "local-exec" {
    when        = destroy
    environment = self.input
    command     = "mesh-lab down $LAB"
  }
}

resource "terraform_data" "cluster" {
  for_each         = local.clusters
  input            = merge(local.lab, { CLUSTER = each.key })
  triggers_replace = [terraform_data.machines.id]

  provisioner "local-exec" {
    interpreter = local.bash
    environment = self.input
    command     = <<-EOT
      mkdir -p $STATE/$CLUSTER/manifests
      mesh-lab --name $LAB exec $CLUSTER/host/control -- clustermesh-apiserver init --data-dir $STATE/$CLUSTER/data \
          --cluster-name $CLUSTER --advertise ${local.advertised[each.key]} \
          --pod-cidr ${join(",", each.value.pod_cidrs)} --service-cidr ${join(",", each.value.service_cidrs)} \
          --mesh-cidr ${join(",", each.value.mesh_cidrs)}
      mesh-lab --name $LAB start $CLUSTER/host/control/apiserver
    EOT
  }
}

resource "terraform_data" "objects" {
  for_each         = local.clusters
  input            = merge(local.lab, { CLUSTER = each.key })
  triggers_replace = [terraform_data.cluster[each.key].id, filesha256("${path.module}/manifests/${each.key}.yaml")]

  provisioner "local-exec" {
    interpreter = local.bash
    environment = self.input
    working_dir = path.module
    # Whole or not at all: the apiserver reads the directory whenever something changes.
    command = <<-EOT
      cp manifests/$CLUSTER.yaml $STATE/$CLUSTER/manifests/.objects.part
      mv $STATE/$CLUSTER/manifests/.objects.part $STATE/$CLUSTER/manifests/objects.yaml
    EOT
  }
}

resource "terraform_data" "node" {
  for_each         = local.nodes
  input            = merge(local.lab, { CLUSTER = each.value.cluster, NODE = each.value.node })
  triggers_replace = [terraform_data.cluster[each.value.cluster].id]
  depends_on       = [terraform_data.objects]

  provisioner "local-exec" {
    interpreter = local.bash
    environment = self.input
    command     = <<-EOT
      mesh-lab --name $LAB exec $CLUSTER/host/control -- \
          clustermesh-apiserver cert issue node $NODE --data-dir $STATE/$CLUSTER/data --out $STATE/$CLUSTER/$NODE
      mesh-lab --name $LAB start $CLUSTER/node/$NODE/tunnel
      mesh-lab --name $LAB start $CLUSTER/node/$NODE/agent
    EOT
  }
}

resource "terraform_data" "peering" {
  for_each         = local.edges
  input            = merge(local.lab, { EDGE = each.key })
  triggers_replace = [terraform_data.cluster["core"].id, terraform_data.cluster[each.key].id]
  depends_on       = [terraform_data.node]

  provisioner "local-exec" {
    interpreter = local.bash
    environment = self.input
    command     = "mesh-lab --name $LAB exec host/admin -- meshctl connect core $EDGE"
  }

  provisioner "local-exec" {
    when        = destroy
    environment = self.input
    command     = "mesh-lab --name $LAB exec host/admin -- meshctl disconnect core $EDGE"
    # After a reboot of this machine there is no lab to disconnect, and what is left has to be destroyed all the same.
    on_failure = continue
  }
}

module "legacy" {
  source    = "../modules/vm-agent"
  name      = "legacy"
  cluster   = "edge-2"
  namespace = "shop"
  labels    = { app = "stock", env = "legacy" }
  serve     = [{ service = "stock", port = 9000 }]
}

resource "terraform_data" "legacy" {
  input            = local.lab
  triggers_replace = [terraform_data.cluster["edge-2"].id, module.legacy.external_workload]
  depends_on       = [terraform_data.peering]

  # The token goes from the operator's machine to the VM, and stands in no file, no list of processes and no state.
  provisioner "local-exec" {
    interpreter = local.bash
    environment = self.input
    command     = <<-EOT
      mesh-lab --name $LAB exec host/admin -- ${module.legacy.add_command} | sed 's/^mesh-vm-agent join //' |
          mesh-lab --name $LAB exec host/legacy -- mesh-vm-agent join -
      mesh-lab --name $LAB start host/legacy/tunnel
      mesh-lab --name $LAB start host/legacy/agent
    EOT
  }

  provisioner "local-exec" {
    when        = destroy
    environment = self.input
    command     = "mesh-lab --name $LAB exec host/admin -- meshctl vm remove legacy --cluster edge-2"
    on_failure  = continue
  }
}

# An apply that ends well has measured it: every node's maps are programmed, and every tunnel carries.
resource "terraform_data" "ready" {
  triggers_replace = [values(terraform_data.peering)[*].id, terraform_data.legacy.id]

  provisioner "local-exec" {
    interpreter = local.bash
    environment = local.lab
    command     = <<-EOT
      mesh-lab --name $LAB exec host/admin -- meshctl status --wait
      # The VM is heard of every five seconds.
      for _ in {1..30}; do
        mesh-lab --name $LAB exec host/admin -- meshctl vm status legacy --cluster edge-2 >/dev/null && break
        sleep 1
      done
      mesh-lab --name $LAB exec host/admin -- meshctl vm status legacy --cluster edge-2
    EOT
  }
}
