# The object, and the command that would write the same.

variables {
  name    = "web-1"
  cluster = "core"
}

run "a_vm_of_which_nothing_more_is_said" {
  command = plan

  assert {
    condition = yamldecode(output.external_workload) == {
      apiVersion = "clustermesh.io/v1alpha1"
      kind       = "ExternalWorkload"
      metadata   = { name = "web-1", namespace = "default" }
      spec       = {}
    }
    error_message = "The object says what nobody said."
  }

  assert {
    condition     = output.add_command == "meshctl vm add web-1 --cluster core --namespace default"
    error_message = "The command says what nobody said."
  }
}

run "all_that_can_be_said_of_a_vm" {
  command = plan
  variables {
    namespace       = "shop"
    labels          = { env = "legacy", "example.org/app" = "stock" }
    service_account = "legacy"
    read            = ["db", "audit"]
    serve = [
      { service = "stock", port = 9000 },
      { service = "cart", port = 8080, port_name = "http" },
    ]
  }

  assert {
    condition = yamldecode(output.external_workload) == {
      apiVersion = "clustermesh.io/v1alpha1"
      kind       = "ExternalWorkload"
      metadata   = { name = "web-1", namespace = "shop" }
      spec = {
        labels         = { env = "legacy", "example.org/app" = "stock" }
        serviceAccount = "legacy"
        namespaces     = ["audit", "db"]
        serve          = [{ service = "stock", port = 9000 }, { service = "cart", portName = "http", port = 8080 }]
      }
    }
    error_message = "The object differs from what was said."
  }

  assert {
    condition     = output.add_command == "meshctl vm add web-1 --cluster core --namespace shop --labels env=legacy,example.org/app=stock --service-account legacy --read audit,db --serve stock:9000 --serve cart:http:8080"
    error_message = "The command differs from what was said."
  }
}

run "a_vm_that_reads_everything" {
  command = plan
  variables {
    read_all = true
  }

  assert {
    condition     = yamldecode(output.external_workload).spec == { allNamespaces = true }
    error_message = "It does not read everything."
  }

  assert {
    condition     = endswith(output.add_command, " --read-all")
    error_message = "The command does not say so."
  }
}

run "programs_with_identities_of_their_own" {
  command = plan
  variables {
    programs = [
      {
        name            = "billing"
        unit            = "billing@eu\\x2d1.service"
        slice           = "pay-eu.slice"
        labels          = { app = "billing" }
        service_account = "billing"
        serve           = [{ service = "invoices", port = 9001 }]
      },
      { name = "jobs", user = "jobs" },
    ]
  }

  assert {
    condition = yamldecode(output.external_workload).spec == {
      programs = [
        {
          name           = "billing"
          unit           = "billing@eu\\x2d1.service"
          slice          = "pay-eu.slice"
          labels         = { app = "billing" }
          serviceAccount = "billing"
          serve          = [{ service = "invoices", port = 9001 }]
        },
        { name = "jobs", user = "jobs" },
      ]
    }
    error_message = "The programs differ from what was said."
  }

  assert {
    condition     = endswith(output.add_command, " --program 'billing=unit:billing@eu\\x2d1.service,slice=pay-eu.slice,label=app=billing,service-account=billing,serve=invoices:9001' --program 'jobs=user:jobs'")
    error_message = "The command differs from what was said."
  }
}
