# Two sides that may peer, for tests that change one thing of them.
output "sides" {
  value = [
    {
      name          = "core"
      uuid          = "0190a5c4-0000-4000-8000-000000000001"
      endpoints     = ["192.0.2.10:2379"]
      trust_bundle  = "-----BEGIN CERTIFICATE-----\nY29yZQ==\n-----END CERTIFICATE-----\n"
      pod_cidrs     = ["10.1.0.0/16"]
      service_cidrs = ["10.96.0.0/16"]
      mesh_cidrs    = ["100.64.1.0/24"]
    },
    {
      name          = "edge-1"
      uuid          = "0190a5c4-0000-4000-8000-000000000002"
      endpoints     = ["198.51.100.7:2379"]
      trust_bundle  = "-----BEGIN CERTIFICATE-----\nZWRnZQ==\n-----END CERTIFICATE-----\n"
      pod_cidrs     = ["10.2.0.0/16"]
      service_cidrs = ["10.96.0.0/16"]
      mesh_cidrs    = ["100.64.2.0/24"]
    },
  ]
}
