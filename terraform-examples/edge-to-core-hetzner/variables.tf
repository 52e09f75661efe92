variable "core" {
  description = "The core cluster, as meshctl calls it: the VMs are its."
  type        = string
  default     = "core"
  nullable    = false
}

variable "vms" {
  description = "VMs at the edge, by name; what each is, as modules/vm-agent has it."
  type = map(object({
    namespace = optional(string, "default")
    labels    = optional(map(string), {})
    read      = optional(list(string), [])
    serve     = optional(list(object({ service = string, port = number, port_name = optional(string) })), [])
  }))
  default  = {}
  nullable = false
}

variable "tokens" {
  description = "For VMs that are about to be made: by name, what its add_command printed after `mesh-vm-agent join`."
  type        = map(string)
  default     = {}
  nullable    = false
  sensitive   = true
}

variable "package" {
  description = "Where the machines fetch the agent's package: an https:// URL of yours, as none is published."
  type        = string
  nullable    = false
}

variable "package_sha256" {
  description = "The SHA-256 of that package, in hex."
  type        = string
  nullable    = false
}

variable "peering" {
  description = "Where a whole cluster stands at the edge: the two sides, as modules/peering has them. None: VMs only."
  type        = any
  default     = null
}

variable "edges" {
  description = "From where edges dial the core. Machines behind NAT have no address of their own: everywhere, as by default."
  type        = list(string)
  default     = ["0.0.0.0/0", "::/0"]
  nullable    = false

  validation {
    condition     = alltrue([for cidr in var.edges : can(cidrsubnet(cidr, 0, 0))])
    error_message = "A range is written as 198.51.100.0/24 or 2001:db8::/32: give the edges' own, or leave it out for everywhere."
  }
}
