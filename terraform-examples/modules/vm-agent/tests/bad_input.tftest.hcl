# Each of these would be refused later, by the cluster or on the machine; here it is refused before anything is made.

variables {
  name    = "web-1"
  cluster = "core"
}

run "a_name_in_capitals" {
  command = plan
  variables {
    name = "Web-1"
  }
  expect_failures = [var.name]
}

run "a_name_that_is_too_long" {
  command = plan
  variables {
    name = join(".", [for n in range(64) : "abcd"])
  }
  expect_failures = [var.name]
}

run "a_cluster_of_which_there_can_be_none" {
  command = plan
  variables {
    cluster = "core.example"
  }
  expect_failures = [var.cluster]
}

run "a_token_for_an_administrator" {
  command = plan
  variables {
    token = "mesh-peer-CgV3ZWItMRI"
  }
  expect_failures = [var.token]
}

run "a_whole_line_instead_of_the_token" {
  command = plan
  variables {
    token = "mesh-vm-agent join mesh-vm-CgV3ZWItMRI"
  }
  expect_failures = [var.token]
}

run "a_namespace_with_an_underscore" {
  command = plan
  variables {
    namespace = "my_shop"
  }
  expect_failures = [var.namespace]
}

run "a_label_whose_key_has_a_space" {
  command = plan
  variables {
    labels = { "my app" = "web" }
  }
  expect_failures = [var.labels]
}

run "a_label_whose_value_would_begin_another" {
  command = plan
  variables {
    labels = { app = "web,env=live" }
  }
  expect_failures = [var.labels]
}

run "a_service_account_in_capitals" {
  command = plan
  variables {
    service_account = "Legacy"
  }
  expect_failures = [var.service_account]
}

run "a_namespace_to_read_that_is_a_pattern" {
  command = plan
  variables {
    read = ["shop-*"]
  }
  expect_failures = [var.read]
}

run "everything_and_a_namespace_beside" {
  command = plan
  variables {
    read     = ["db"]
    read_all = true
  }
  expect_failures = [var.read_all]
}

run "a_port_that_is_none" {
  command = plan
  variables {
    serve = [{ service = "cart", port = 0 }]
  }
  expect_failures = [var.serve]
}

run "half_a_port" {
  command = plan
  variables {
    serve = [{ service = "cart", port = 80.5 }]
  }
  expect_failures = [var.serve]
}

run "a_service_of_another_namespace" {
  command = plan
  variables {
    serve = [{ service = "cart.shop", port = 80 }]
  }
  expect_failures = [var.serve]
}

run "a_port_that_is_served_twice" {
  command = plan
  variables {
    serve = [{ service = "cart", port = 80 }, { service = "cart", port = 81 }]
  }
  expect_failures = [var.serve]
}

run "a_package_over_plain_http" {
  command = plan
  variables {
    package = "http://packages.example/mesh-vm-agent.deb"
  }
  expect_failures = [var.package]
}

run "a_package_at_a_path_of_the_operator" {
  command = plan
  variables {
    package = "target/packages/mesh-vm-agent.deb"
  }
  expect_failures = [var.package]
}

run "a_package_whose_url_ends_the_quotes" {
  command = plan
  variables {
    package = "https://packages.example/'; reboot; '.deb"
  }
  expect_failures = [var.package]
}

run "a_package_of_another_kind" {
  command = plan
  variables {
    package = "https://packages.example/mesh-vm-agent.apk"
  }
  expect_failures = [var.package]
}

run "a_sum_that_is_cut" {
  command = plan
  variables {
    package        = "https://packages.example/a.deb"
    package_sha256 = "9f86d081"
  }
  expect_failures = [var.package_sha256]
}

run "a_sum_without_anything_to_fetch" {
  command = plan
  variables {
    package_sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
  }
  expect_failures = [var.package_sha256]
}

run "an_option_with_a_line_of_its_own" {
  command = plan
  variables {
    options = ["--no-dns\nPATH=/tmp"]
  }
  expect_failures = [var.options]
}

run "a_program_of_nobody" {
  command = plan
  variables {
    programs = [{ name = "billing" }]
  }
  expect_failures = [var.programs]
}

run "a_program_of_a_unit_and_of_a_user" {
  command = plan
  variables {
    programs = [{ name = "billing", unit = "billing.service", user = "billing" }]
  }
  expect_failures = [var.programs]
}

run "a_slice_of_a_user" {
  command = plan
  variables {
    programs = [{ name = "billing", user = "billing", slice = "pay.slice" }]
  }
  expect_failures = [var.programs]
}

run "a_unit_without_its_ending" {
  command = plan
  variables {
    programs = [{ name = "billing", unit = "billing" }]
  }
  expect_failures = [var.programs]
}

run "a_unit_that_ends_the_quotes" {
  command = plan
  variables {
    programs = [{ name = "billing", unit = "'; reboot; '.service" }]
  }
  expect_failures = [var.programs]
}

run "two_programs_of_one_name" {
  command = plan
  variables {
    programs = [{ name = "jobs", user = "jobs" }, { name = "jobs", user = "cron" }]
  }
  expect_failures = [var.programs]
}

run "a_program_with_a_label_of_two_words" {
  command = plan
  variables {
    programs = [{ name = "jobs", user = "jobs", labels = { app = "two words" } }]
  }
  expect_failures = [var.programs]
}

run "a_program_that_serves_port_0" {
  command = plan
  variables {
    programs = [{ name = "jobs", user = "jobs", serve = [{ service = "jobs", port = 0 }] }]
  }
  expect_failures = [var.programs]
}
