variable "clusters" {
  description = <<-EOT
    The two sides. name, uuid, endpoints and trust_bundle are what a cluster says of itself: `name`, `uuid` and
    `advertise` in its cluster.yaml, and bundle.pem beside any certificate of its CA; on Kubernetes the ConfigMap
    `…-bundle` has them all. namespaces, limits and stale are what the other side accepts from it; without
    namespaces those of all.
  EOT
  type = list(object({
    name          = string
    uuid          = string
    endpoints     = list(string)
    trust_bundle  = string
    pod_cidrs     = list(string)
    service_cidrs = list(string)
    mesh_cidrs    = list(string)
    namespaces    = optional(list(string), [])
    limits = optional(object({
      nodes              = optional(number, 10000)
      identities         = optional(number, 10000)
      endpoints          = optional(number, 10000)
      services           = optional(number, 10000)
      backends           = optional(number, 10000)
      changes_per_second = optional(number, 5000)
    }), {})
    stale = optional(object({
      policy       = optional(string, "demote")
      drop_after_s = optional(number)
    }), {})
  }))
  nullable = false

  validation {
    condition     = length(var.clusters) == 2
    error_message = "A peering has two sides: give two clusters, and one module for each pair."
  }

  validation {
    condition = alltrue([
      for it in var.clusters : can(regex("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", it.name))
    ])
    error_message = "A cluster's name has 1 to 63 of a-z, 0-9 and '-': give the one that its cluster.yaml has."
  }

  validation {
    condition     = length(distinct(var.clusters[*].name)) == length(var.clusters)
    error_message = "Both sides have one name, and names are how peers call each other: make one of the clusters anew under another (MESH202)."
  }

  validation {
    condition = alltrue([
      for it in var.clusters : can(regex("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", it.uuid))
    ])
    error_message = "A cluster's uuid is as its cluster.yaml has it, 01234567-89ab-4cde-8f01-23456789abcd: copy it from there."
  }

  validation {
    condition     = length(distinct(var.clusters[*].uuid)) == length(var.clusters)
    error_message = "Both sides have one uuid, so one data directory was copied from the other: make one of the clusters anew (MESH201)."
  }

  validation {
    condition = alltrue([
      for it in var.clusters : length(it.endpoints) >= 1 && length(it.endpoints) <= 16 && alltrue([
        for endpoint in it.endpoints :
        can(regex("^(\\[[0-9a-f:]+\\]|[A-Za-z0-9][-A-Za-z0-9.]*):[0-9]{1,5}$", endpoint))
      ])
    ])
    error_message = "A cluster has 1 to 16 endpoints of the form host:port, IPv6 in brackets: give what it advertises (MESH103)."
  }

  validation {
    condition = alltrue([
      for it in var.clusters :
      can(regex("(?s)^-----BEGIN CERTIFICATE-----.*-----END CERTIFICATE-----\\s*$", it.trust_bundle))
    ])
    error_message = "A trust_bundle is the cluster's CA as PEM: give its bundle.pem, as file(\"bundle.pem\")."
  }

  validation {
    condition     = alltrue([for it in var.clusters : !can(regex("PRIVATE KEY", it.trust_bundle))])
    error_message = "There is a private key in a trust_bundle, and keys never leave their cluster: give bundle.pem, and keep what has the key out of this repository."
  }

  validation {
    condition = alltrue(flatten([
      for it in var.clusters : [
        for cidr in concat(it.pod_cidrs, it.service_cidrs, it.mesh_cidrs) :
        can(cidrsubnet(cidr, 0, 0)) && can(regex("^[0-9a-f.:]+/[1-9][0-9]*$", cidr))
      ]
    ]))
    error_message = "A range is written as 10.1.0.0/16 or fd00:10:1::/48: give those that the cluster was made with."
  }

  validation {
    condition = alltrue(flatten([
      for it in var.clusters : [for cidrs in [it.pod_cidrs, it.service_cidrs, it.mesh_cidrs] : length(cidrs) > 0]
    ]))
    error_message = "A cluster has ranges of pods, Services and mesh addresses: give those that it was made with."
  }

  # Two prefixes share an address when they are one, cut to the shorter length.
  validation {
    condition = !anytrue(flatten([
      for own in var.clusters : [
        for other in var.clusters : [
          for pair in setproduct(
            concat(own.pod_cidrs, own.mesh_cidrs),
            concat(other.pod_cidrs, other.mesh_cidrs, other.service_cidrs),
          ) :
          try(length(distinct([
            for cidr in pair :
            cidrsubnet("${split("/", cidr)[0]}/${min([for it in pair : tonumber(split("/", it)[1])]...)}", 0, 0)
          ])) == 1, false)
        ] if other.name != own.name
      ]
    ]))
    error_message = "A range of pods' or mesh addresses overlaps one of the other side: give one cluster other ranges (MESH203). Ranges of ClusterIPs alone may be the same."
  }

  validation {
    condition = alltrue(flatten([
      for it in var.clusters : [
        length(it.namespaces) <= 1000,
        [for namespace in it.namespaces : can(regex("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", namespace))],
      ]
    ]))
    error_message = "At most 1000 namespaces of a-z, 0-9 and '-' may be named: name them so, or none for all."
  }

  validation {
    condition = alltrue(flatten([
      for it in var.clusters : [
        for limit in values(it.limits) : limit >= 1 && limit <= 4294967295 && floor(limit) == limit
      ]
    ]))
    error_message = "A limit is a whole number from 1 on: give one above what the cluster has, or leave it out for the default."
  }

  validation {
    condition = alltrue([
      for it in var.clusters : contains(["demote", "keep", "drop-after"], it.stale.policy)
    ])
    error_message = "What happens to a stale peer's backends is `demote`, `keep` or `drop-after`: choose one."
  }

  validation {
    condition = alltrue([
      for it in var.clusters :
      it.stale.policy == "drop-after" && it.stale.drop_after_s >= 1 && floor(it.stale.drop_after_s) == it.stale.drop_after_s
      if it.stale.drop_after_s != null
    ])
    error_message = "drop_after_s is a whole number of seconds from 1 on, with the policy drop-after: choose that policy, or leave it out."
  }
}
