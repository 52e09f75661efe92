# Two objects, one for each side, read back as YAML.

variables {
  clusters = [
    {
      name          = "core"
      uuid          = "0190a5c4-0000-4000-8000-000000000001"
      endpoints     = ["mesh.core.example:2379", "[2001:db8::10]:2379"]
      trust_bundle  = "-----BEGIN CERTIFICATE-----\nY29yZQ==\n-----END CERTIFICATE-----\n"
      pod_cidrs     = ["10.1.0.0/16", "fd00:10:1::/48"]
      service_cidrs = ["10.96.0.0/12"]
      mesh_cidrs    = ["100.64.1.0/24"]
      namespaces    = ["shop"]
    },
    {
      name          = "edge-1"
      uuid          = "0190a5c4-0000-4000-8000-000000000002"
      endpoints     = ["198.51.100.7:2379"]
      trust_bundle  = "-----BEGIN CERTIFICATE-----\nZWRnZQ==\n-----END CERTIFICATE-----\n"
      pod_cidrs     = ["10.2.0.0/16"]
      service_cidrs = ["10.96.0.0/12"]
      mesh_cidrs    = ["100.64.2.0/24"]
      limits        = { nodes = 2, backends = 50 }
      stale         = { policy = "drop-after", drop_after_s = 3600 }
    },
  ]
}

run "each_side_is_told_what_to_accept_from_the_other" {
  command = plan

  assert {
    condition     = toset(keys(output.objects)) == toset(["core", "edge-1"])
    error_message = "There is not one object for each side."
  }

  assert {
    condition = yamldecode(output.objects["edge-1"]) == {
      apiVersion = "clustermesh.io/v1alpha1"
      kind       = "MeshPeer"
      metadata   = { name = "core" }
      spec = {
        uuid        = "0190a5c4-0000-4000-8000-000000000001"
        endpoints   = ["mesh.core.example:2379", "[2001:db8::10]:2379"]
        trustBundle = "-----BEGIN CERTIFICATE-----\nY29yZQ==\n-----END CERTIFICATE-----\n"
        contract = {
          cidrs      = ["10.1.0.0/16", "100.64.1.0/24", "fd00:10:1::/48"]
          namespaces = ["shop"]
          limits = {
            nodes = 10000, identities = 10000, endpoints = 10000, services = 10000, backends = 10000, changesPerSecond = 5000
          }
        }
        stale = { policy = "demote" }
      }
    }
    error_message = "What edge-1 accepts from core is not what was said of core."
  }

  assert {
    condition = yamldecode(output.objects["core"]).spec.contract == {
      cidrs      = ["10.2.0.0/16", "100.64.2.0/24"]
      namespaces = []
      limits = {
        nodes = 2, identities = 10000, endpoints = 10000, services = 10000, backends = 50, changesPerSecond = 5000
      }
    }
    error_message = "What core accepts from edge-1 is not what was said of edge-1."
  }

  assert {
    condition     = yamldecode(output.objects["core"]).spec.stale == { policy = "drop-after", dropAfterS = 3600 }
    error_message = "A stale edge-1 is not dropped after an hour."
  }
}
