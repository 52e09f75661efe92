locals {
  # What the other side holds each cluster to.
  said_of = { for it in var.clusters : it.name => yamlencode({
    apiVersion = "clustermesh.io/v1alpha1"
    kind       = "MeshPeer"
    metadata   = { name = it.name }
    spec = {
      uuid        = it.uuid
      endpoints   = it.endpoints
      trustBundle = it.trust_bundle
      contract = {
        # ClusterIPs never leave their cluster. IPv4 first, as `meshctl connect` has them: who takes over changes nothing.
        cidrs = concat([
          for is_v6 in [false, true] : [
            for cidr in concat(it.pod_cidrs, it.mesh_cidrs) : cidr if strcontains(cidr, ":") == is_v6
          ]
        ]...)
        namespaces = it.namespaces
        limits = {
          nodes            = it.limits.nodes
          identities       = it.limits.identities
          endpoints        = it.limits.endpoints
          services         = it.limits.services
          backends         = it.limits.backends
          changesPerSecond = it.limits.changes_per_second
        }
      }
      stale = {
        for key, value in { policy = it.stale.policy, dropAfterS = it.stale.drop_after_s } : key => value
        if value != null
      }
    }
  }) }
}
