# The mesh's part, as the README calls it. The tests of the project run this without cloud.tf, whose provider asks Hetzner.

variables {
  package        = "https://packages.example/mesh-vm-agent_0.1.0-1_amd64.deb"
  package_sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
  vms = {
    till-1 = { namespace = "shop", labels = { app = "till" } }
    till-2 = { namespace = "shop", labels = { app = "till" }, serve = [{ service = "stock", port = 9000 }] }
  }
}

run "machines_without_tokens_are_named_with_what_adds_them" {
  command = plan

  assert {
    condition = output.add_commands == {
      till-1 = "meshctl vm add till-1 --cluster core --namespace shop --labels app=till"
      till-2 = "meshctl vm add till-2 --cluster core --namespace shop --labels app=till --serve stock:9000"
    }
    error_message = "The operator is not told what to run."
  }

  assert {
    condition     = module.vm["till-1"].user_data == null && output.mesh_peers == null
    error_message = "There is more than what was asked for."
  }

  expect_failures = [check.every_new_machine_has_a_token]
}

run "each_machine_gets_its_own_token" {
  command = plan
  variables {
    tokens = { till-1 = "mesh-vm-AAAA", till-2 = "mesh-vm-BBBB" }
  }

  assert {
    condition = [for name in ["till-1", "till-2"] : yamldecode(module.vm[name].user_data).write_files[0].content] == [
      "mesh-vm-AAAA\n", "mesh-vm-BBBB\n",
    ]
    error_message = "A machine would join as another."
  }
}

run "a_cluster_at_the_edge_gets_its_peering" {
  command = plan
  variables {
    vms = {}
    peering = [
      {
        name          = "core"
        uuid          = "0190a5c4-0000-4000-8000-000000000001"
        endpoints     = ["mesh.core.example:2379"]
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
        limits        = { nodes = 2 }
      },
    ]
  }

  assert {
    condition = { for cluster, object in output.mesh_peers : cluster => yamldecode(object).metadata.name } == {
      core = "edge-1", edge-1 = "core"
    }
    error_message = "The objects are not one for each side."
  }
}
