variable "name" {
  description = "The VM's name, unique among the nodes and VMs of its cluster."
  type        = string
  nullable    = false

  validation {
    condition = length(var.name) <= 253 && can(regex(
      "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$", var.name
    ))
    error_message = "A VM's name consists of a-z, 0-9 and '-', and of '.' between its parts, as web-1: take such a one."
  }
}

variable "cluster" {
  description = "The cluster it belongs to, as meshctl calls it."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", var.cluster))
    error_message = "A cluster's name has 1 to 63 of a-z, 0-9 and '-': take the one that `meshctl status` shows."
  }
}

variable "token" {
  description = <<-EOT
    What `meshctl vm add` or `meshctl vm token` printed after `mesh-vm-agent join`: it counts for this VM, once, for
    15 minutes. Without it there are no user data yet, only the object and the commands that make a token.
  EOT
  type        = string
  default     = null
  sensitive   = true

  validation {
    condition     = var.token == null || can(regex("^mesh-vm-[A-Za-z0-9_-]+$", var.token))
    error_message = "This is no token for a VM: give what `meshctl vm token NAME` prints after `mesh-vm-agent join`, whole."
  }
}

variable "namespace" {
  description = "The namespace of its identity, and of the Services that it serves."
  type        = string
  default     = "default"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "A namespace has 1 to 63 of a-z, 0-9 and '-': name one of the cluster's."
  }
}

variable "labels" {
  description = "Labels of its identity, as a pod's: what policies speak of."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition = alltrue([
      for key in keys(var.labels) : length(key) <= 317 && can(regex(
        "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$", key
      ))
    ])
    error_message = "A label's key is as Kubernetes has them, `app` or `example.org/app`: write each of them so."
  }

  validation {
    condition = alltrue([
      for value in values(var.labels) :
      can(regex("^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$", value))
    ])
    error_message = "A label's value has at most 63 letters, digits, '-', '_' and '.', and begins and ends with a letter or digit: shorten it, or leave out what is neither."
  }
}

variable "service_account" {
  description = "The service account of its identity; the cluster takes `default` where none is named."
  type        = string
  default     = null

  validation {
    condition = var.service_account == null || can(regex(
      "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$", var.service_account
    ))
    error_message = "A service account's name consists of a-z, 0-9, '-' and '.': take such a one, or leave it out for `default`."
  }
}

variable "read" {
  description = "Namespaces whose Services it may read beside those of its own."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition = length(var.read) <= 64 && alltrue([
      for namespace in var.read : can(regex("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", namespace))
    ])
    error_message = "At most 64 namespaces, each of a-z, 0-9 and '-', may be named: for more, set read_all."
  }
}

variable "read_all" {
  description = "It may read the Services of all namespaces."
  type        = bool
  default     = false
  nullable    = false

  validation {
    condition     = !(var.read_all && length(var.read) > 0)
    error_message = "read_all means every namespace: leave out read, or read_all."
  }
}

variable "serve" {
  description = "Services of its namespace that it serves, and where its program listens; port_name where one has several."
  type = list(object({
    service   = string
    port      = number
    port_name = optional(string)
  }))
  default  = []
  nullable = false

  validation {
    condition = alltrue([
      for it in var.serve : it.port >= 1 && it.port <= 65535 && floor(it.port) == it.port
    ])
    error_message = "A port is a whole number from 1 to 65535: give the one that the program listens on."
  }

  validation {
    condition = alltrue(flatten([
      for it in var.serve : [
        can(regex("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", it.service)),
        it.port_name == null || can(regex("^[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$", it.port_name)),
      ]
    ]))
    error_message = "A Service and its port are called by their names in Kubernetes, of a-z, 0-9 and '-': take these."
  }

  validation {
    condition = length(var.serve) <= 64 && length(var.serve) == length(distinct([
      for it in var.serve : [it.service, it.port_name]
    ]))
    error_message = "A VM serves at most 64 Services, and each port of one once: name the other port in port_name."
  }
}

variable "programs" {
  description = <<-EOT
    Programs of it with an identity and mesh addresses of their own: the processes of a systemd unit, or of a user.
    `slice` where the unit's `Slice=` is not systemd's default; labels, service_account and serve as the VM's.
  EOT
  type = list(object({
    name            = string
    unit            = optional(string)
    slice           = optional(string)
    user            = optional(string)
    labels          = optional(map(string), {})
    service_account = optional(string)
    serve = optional(list(object({
      service   = string
      port      = number
      port_name = optional(string)
    })), [])
  }))
  default  = []
  nullable = false

  validation {
    condition = length(var.programs) <= 16 && length(var.programs) == length(distinct(var.programs[*].name)) && alltrue([
      for it in var.programs : can(regex("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", it.name))
    ])
    error_message = "At most 16 programs, each with a name of its own of a-z, 0-9 and '-', may have an identity: leave out the others."
  }

  validation {
    condition = alltrue([
      for it in var.programs : (it.unit == null) != (it.user == null) && (it.slice == null || it.unit != null)
    ])
    error_message = "A program is the processes of a unit or of a user, and only a unit is in a slice: say unit, or user."
  }

  validation {
    condition = alltrue([
      for it in var.programs :
      (it.unit == null || can(regex("^[A-Za-z0-9:_\\\\@-][A-Za-z0-9:_.\\\\@-]*\\.(service|scope|slice)$", it.unit))) &&
      (it.slice == null || can(regex("^[A-Za-z0-9:_.\\\\@]+(-[A-Za-z0-9:_.\\\\@]+)*\\.slice$", it.slice))) &&
      (it.user == null || can(regex("^([0-9]+|[A-Za-z_][A-Za-z0-9_-]{0,30})$", it.user)))
    ])
    error_message = "A unit is written whole, as `billing.service`, a slice as `pay.slice`, a user by its name or number: take what `systemctl` and `id` show."
  }

  validation {
    condition = alltrue(flatten([
      for it in var.programs : [
        it.service_account == null || can(regex("^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$", it.service_account)),
        [for key in keys(it.labels) : length(key) <= 317 && can(regex(
          "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$", key
        ))],
        [for value in values(it.labels) : can(regex("^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$", value))],
      ]
    ]))
    error_message = "Labels and service accounts of programs are written as those of the VM: see labels and service_account."
  }

  validation {
    condition = alltrue(flatten([
      for it in var.programs : [
        length(it.serve) <= 64 && length(it.serve) == length(distinct([for of in it.serve : [of.service, of.port_name]])),
        [for of in it.serve : [
          of.port >= 1 && of.port <= 65535 && floor(of.port) == of.port,
          can(regex("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", of.service)),
          of.port_name == null || can(regex("^[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$", of.port_name)),
        ]],
      ]
    ]))
    error_message = "What a program serves is written as what the VM serves, at most 64 Services: see serve."
  }
}

variable "package" {
  description = "The agent's .deb or .rpm: an https:// URL, or a path in the machine's image. None where it is installed."
  type        = string
  default     = null

  # It stands in a shell script between quotes: nothing that could end them.
  validation {
    condition     = var.package == null || can(regex("^(https:/)?/[A-Za-z0-9._~/:%+=?&-]+$", var.package))
    error_message = "The package is fetched from an https:// URL or is at a path that begins with /: give one, without spaces or quotes."
  }

  validation {
    condition     = var.package == null || can(regex("\\.(deb|rpm)([?].*)?$", var.package))
    error_message = "The package ends with .deb or .rpm: give one of those that `make packages` makes, whichever the machine's distribution takes."
  }
}

variable "package_sha256" {
  description = "The SHA-256 of a package from a URL, in hex: what has another is not installed."
  type        = string
  default     = null

  validation {
    condition     = var.package_sha256 == null || can(regex("^[0-9a-f]{64}$", var.package_sha256))
    error_message = "A SHA-256 has 64 of 0-9 and a-f: give what `sha256sum` prints of the package."
  }

  validation {
    condition     = var.package_sha256 == null || can(regex("^https://", var.package))
    error_message = "package_sha256 is for a package from a URL: leave it out, or give package a URL."
  }
}

variable "options" {
  description = "Arguments of `mesh-vm-agent run`, as [\"--no-dns\"]. None: the package's own file stays."
  type        = list(string)
  default     = []
  nullable    = false

  # systemd splits them at white space, and takes quotes and dollars as its own.
  validation {
    condition     = alltrue([for option in var.options : can(regex("^[A-Za-z0-9._:/=@,-]+$", option))])
    error_message = "An option of the agent has neither spaces, quotes nor '$': give each word as an element of its own."
  }
}
