# What AWS has to say. The mesh's part is in mesh.tf.

terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.60, < 7.0"
    }
  }
}

provider "aws" {
  region = var.region
}

variable "region" {
  description = "Where both networks are made."
  type        = string
  default     = "eu-central-1"
}

variable "instance_type" {
  description = "Of the VMs at the edge; amd64, as the package is."
  type        = string
  default     = "t3.micro"
}

# ── The core: a network for the cluster's nodes, which you put there. Two ports of it are the mesh's.

resource "aws_vpc" "core" {
  cidr_block           = "172.31.0.0/20"
  enable_dns_hostnames = true
  tags                 = { Name = "mesh-core" }
}

resource "aws_internet_gateway" "core" {
  vpc_id = aws_vpc.core.id
}

resource "aws_subnet" "core" {
  vpc_id                  = aws_vpc.core.id
  cidr_block              = "172.31.0.0/24"
  map_public_ip_on_launch = true
  tags                    = { Name = "mesh-core" }
}

resource "aws_route_table" "core" {
  vpc_id = aws_vpc.core.id
  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.core.id
  }
}

resource "aws_route_table_association" "core" {
  subnet_id      = aws_subnet.core.id
  route_table_id = aws_route_table.core.id
}

resource "aws_security_group" "core" {
  name        = "mesh-core"
  description = "Nodes and apiserver of the core cluster"
  vpc_id      = aws_vpc.core.id
}

resource "aws_vpc_security_group_ingress_rule" "tunnels" {
  for_each          = toset(var.edges)
  security_group_id = aws_security_group.core.id
  description       = "WireGuard: edges dial the core's nodes"
  cidr_ipv4         = each.value
  ip_protocol       = "udp"
  from_port         = 51871
  to_port           = 51871
}

resource "aws_vpc_security_group_ingress_rule" "apiserver" {
  for_each          = toset(var.edges)
  security_group_id = aws_security_group.core.id
  description       = "The mesh's apiserver: mutual TLS"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 2379
  to_port           = 2379
}

resource "aws_vpc_security_group_ingress_rule" "within" {
  security_group_id            = aws_security_group.core.id
  description                  = "The cluster among itself"
  referenced_security_group_id = aws_security_group.core.id
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_egress_rule" "core" {
  security_group_id = aws_security_group.core.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}

# ── The edge: machines that only dial out.

resource "aws_vpc" "edge" {
  cidr_block           = "172.31.16.0/20"
  enable_dns_hostnames = true
  tags                 = { Name = "mesh-edge" }
}

resource "aws_internet_gateway" "edge" {
  vpc_id = aws_vpc.edge.id
}

resource "aws_subnet" "edge" {
  vpc_id                  = aws_vpc.edge.id
  cidr_block              = "172.31.16.0/24"
  map_public_ip_on_launch = true
  tags                    = { Name = "mesh-edge" }
}

resource "aws_route_table" "edge" {
  vpc_id = aws_vpc.edge.id
  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.edge.id
  }
}

resource "aws_route_table_association" "edge" {
  subnet_id      = aws_subnet.edge.id
  route_table_id = aws_route_table.edge.id
}

# No rule for what comes in: answers to what was dialled need none.
resource "aws_security_group" "edge" {
  name        = "mesh-edge"
  description = "VMs of the mesh"
  vpc_id      = aws_vpc.edge.id
}

resource "aws_vpc_security_group_egress_rule" "edge" {
  for_each = {
    tunnels   = { protocol = "udp", port = 51871 }
    apiserver = { protocol = "tcp", port = 2379 }
    packages  = { protocol = "tcp", port = 80 }
    package   = { protocol = "tcp", port = 443 }
  }
  security_group_id = aws_security_group.edge.id
  description       = each.key
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = each.value.protocol
  from_port         = each.value.port
  to_port           = each.value.port
}

# Debian's own images; Linux 6.1 is the oldest kernel that the agent takes.
data "aws_ami" "debian" {
  most_recent = true
  owners      = ["136693071363"]

  filter {
    name   = "name"
    values = ["debian-12-amd64-*"]
  }
}

resource "aws_instance" "vm" {
  for_each               = var.vms
  ami                    = data.aws_ami.debian.id
  instance_type          = var.instance_type
  subnet_id              = aws_subnet.edge.id
  vpc_security_group_ids = [aws_security_group.edge.id]
  user_data              = module.vm[each.key].user_data
  tags                   = { Name = each.key }

  # Programs that can be talked into fetching a URL do not read the user data.
  metadata_options {
    http_tokens = "required"
  }

  # A token counts once, and a newer image is no reason to make a machine anew.
  lifecycle {
    ignore_changes = [user_data, ami]
  }

  depends_on = [aws_route_table_association.edge, aws_vpc_security_group_egress_rule.edge]
}
