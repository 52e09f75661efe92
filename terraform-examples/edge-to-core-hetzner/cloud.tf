# What Hetzner has to say. The mesh's part is in mesh.tf.

terraform {
  required_version = ">= 1.9"
  required_providers {
    hcloud = {
      source  = "hetznercloud/hcloud"
      version = "~> 1.50"
    }
  }
}

# Its token is read from HCLOUD_TOKEN.
provider "hcloud" {}

variable "location" {
  description = "Where the VMs at the edge stand."
  type        = string
  default     = "nbg1"
}

variable "server_type" {
  description = "Of the VMs at the edge; amd64, as the package is."
  type        = string
  default     = "cx22"
}

variable "ssh_keys" {
  description = "Names of SSH keys of the project, for the VMs. Without one Hetzner sends a password by mail."
  type        = list(string)
  default     = []
}

# ── The core: a network for the cluster's nodes, which you put there. Two ports of it are the mesh's.

resource "hcloud_network" "core" {
  name     = "mesh-core"
  ip_range = "172.31.0.0/20"
}

resource "hcloud_network_subnet" "core" {
  network_id   = hcloud_network.core.id
  type         = "cloud"
  network_zone = "eu-central"
  ip_range     = "172.31.0.0/24"
}

# Of every server with the label `mesh=core`.
resource "hcloud_firewall" "core" {
  name = "mesh-core"

  apply_to {
    label_selector = "mesh=core"
  }

  rule {
    description = "WireGuard: edges dial the core's nodes"
    direction   = "in"
    protocol    = "udp"
    port        = "51871"
    source_ips  = var.edges
  }

  rule {
    description = "The mesh's apiserver: mutual TLS"
    direction   = "in"
    protocol    = "tcp"
    port        = "2379"
    source_ips  = var.edges
  }
}

# ── The edge: machines that only dial out. What they dial is answered without a rule.

resource "hcloud_firewall" "edge" {
  name = "mesh-edge"

  rule {
    description = "Too large packets are told so"
    direction   = "in"
    protocol    = "icmp"
    source_ips  = ["0.0.0.0/0", "::/0"]
  }
}

# Debian's kernel, 6.1, is the oldest that the agent takes.
resource "hcloud_server" "vm" {
  for_each     = var.vms
  name         = each.key
  image        = "debian-12"
  server_type  = var.server_type
  location     = var.location
  ssh_keys     = var.ssh_keys
  firewall_ids = [hcloud_firewall.edge.id]
  user_data    = module.vm[each.key].user_data

  # A token counts once.
  lifecycle {
    ignore_changes = [user_data, ssh_keys]
  }
}
