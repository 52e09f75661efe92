# What `meshctl check` or the apiserver would refuse is refused before it is written anywhere. Each case differs in one field from
# two sides that may peer.

run "sides" {
  module {
    source = "./tests/sides"
  }
}

run "two_sides_that_may_peer" {
  command = plan
  variables {
    clusters = run.sides.sides
  }
}

run "one_side_alone" {
  command = plan
  variables {
    clusters = [run.sides.sides[0]]
  }
  expect_failures = [var.clusters]
}

run "two_sides_of_one_name" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { name = "core" })]
  }
  expect_failures = [var.clusters]
}

run "a_name_with_a_dot" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { name = "edge.example" })]
  }
  expect_failures = [var.clusters]
}

run "a_uuid_without_its_dashes" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { uuid = "0190a5c4000040008000000000000002" })]
  }
  expect_failures = [var.clusters]
}

run "two_sides_of_one_uuid" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { uuid = "0190a5c4-0000-4000-8000-000000000001" })]
  }
  expect_failures = [var.clusters]
}

run "a_side_without_an_endpoint" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { endpoints = [] })]
  }
  expect_failures = [var.clusters]
}

run "an_endpoint_without_a_port" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { endpoints = ["edge.example"] })]
  }
  expect_failures = [var.clusters]
}

run "an_endpoint_of_ipv6_without_brackets" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { endpoints = ["2001:db8::7:2379"] })]
  }
  expect_failures = [var.clusters]
}

run "a_path_instead_of_the_bundle" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { trust_bundle = "bundle.pem" })]
  }
  expect_failures = [var.clusters]
}

run "a_bundle_with_a_key_in_it" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { trust_bundle = replace(run.sides.sides[1].trust_bundle, "\nZWRnZQ==", "\n-----BEGIN PRIVATE KEY-----") })]
  }
  expect_failures = [var.clusters]
}

run "an_address_instead_of_a_range" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { pod_cidrs = ["10.2.0.0"] })]
  }
  expect_failures = [var.clusters]
}

run "a_range_of_every_address" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { pod_cidrs = ["0.0.0.0/0"] })]
  }
  expect_failures = [var.clusters]
}

run "a_side_without_mesh_addresses" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { mesh_cidrs = [] })]
  }
  expect_failures = [var.clusters]
}

run "pods_within_the_other_side_s_pods" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { pod_cidrs = ["10.1.128.0/20"] })]
  }
  expect_failures = [var.clusters]
}

run "mesh_addresses_around_the_other_side_s" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { mesh_cidrs = ["100.64.0.0/10"] })]
  }
  expect_failures = [var.clusters]
}

run "pods_within_the_other_side_s_services" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { pod_cidrs = ["10.96.4.0/24"] })]
  }
  expect_failures = [var.clusters]
}

run "services_around_the_other_side_s_pods" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { service_cidrs = ["10.0.0.0/11"] })]
  }
  expect_failures = [var.clusters]
}

run "a_namespace_that_is_a_pattern" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { namespaces = ["shop-*"] })]
  }
  expect_failures = [var.clusters]
}

run "a_limit_of_nothing" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { limits = { nodes = 0 } })]
  }
  expect_failures = [var.clusters]
}

run "a_policy_that_is_not_known" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { stale = { policy = "forget" } })]
  }
  expect_failures = [var.clusters]
}

run "a_time_without_the_policy_that_has_one" {
  command = plan
  variables {
    clusters = [run.sides.sides[0], merge(run.sides.sides[1], { stale = { drop_after_s = 60 } })]
  }
  expect_failures = [var.clusters]
}
