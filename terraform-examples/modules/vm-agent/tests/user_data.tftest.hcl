# What cloud-init is told, read back as YAML.

variables {
  name    = "web-1"
  cluster = "core"
  token   = "mesh-vm-CgV3ZWItMRIEY29yZQ"
}

run "a_machine_whose_image_has_the_agent_joins_and_installs_nothing" {
  command = plan

  assert {
    condition     = startswith(output.user_data, "#cloud-config\n")
    error_message = "cloud-init would not know what it is."
  }

  assert {
    condition = yamldecode(output.user_data).write_files == [
      { path = "/run/mesh-vm-agent-token", permissions = "0600", content = "mesh-vm-CgV3ZWItMRIEY29yZQ\n" },
    ]
    error_message = "The token is not in a file of its own that only root reads, or the package's options are written over."
  }

  assert {
    condition     = toset(keys(yamldecode(output.user_data))) == toset(["write_files", "runcmd"])
    error_message = "More is done than to join."
  }

  assert {
    condition     = length(yamldecode(output.user_data).runcmd) == 1 && slice(yamldecode(output.user_data).runcmd[0], 0, 2) == ["/bin/sh", "-euc"]
    error_message = "The commands are not one script that ends at the first that fails."
  }

  assert {
    condition     = strcontains(yamldecode(output.user_data).runcmd[0][2], "until mesh-vm-agent join - </run/mesh-vm-agent-token; do\n")
    error_message = "It does not join by what is in the file."
  }

  assert {
    condition     = !strcontains(yamldecode(output.user_data).runcmd[0][2], var.token)
    error_message = "The token stands in a command, where a list of processes shows it."
  }

  assert {
    condition     = !can(regex("apt|dnf|curl", yamldecode(output.user_data).runcmd[0][2]))
    error_message = "Something is installed."
  }
}

run "a_package_from_a_url_is_checked_before_it_is_installed" {
  command = plan
  variables {
    package        = "https://packages.example/mesh-vm-agent_0.1.0-1_amd64.deb?signature=a%2Fb"
    package_sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    options        = ["--cluster-domain", "mesh.example"]
  }

  assert {
    condition = [
      for line in split("\n", yamldecode(output.user_data).runcmd[0][2]) : line if can(regex("^(curl|echo|apt|DEBIAN|dnf|until)", line))
      ] == [
      "curl --fail --silent --show-error --location --retry 5 --output /run/mesh-vm-agent.deb 'https://packages.example/mesh-vm-agent_0.1.0-1_amd64.deb?signature=a%2Fb'",
      "echo '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  /run/mesh-vm-agent.deb' | sha256sum --check --quiet",
      "apt-get update",
      "DEBIAN_FRONTEND=noninteractive apt-get install --yes --option Dpkg::Options::=--force-confold '/run/mesh-vm-agent.deb'",
      "until mesh-vm-agent join - </run/mesh-vm-agent-token; do",
    ]
    error_message = "It is not fetched, checked, installed and joined, in this order."
  }

  assert {
    condition     = yamldecode(output.user_data).packages == ["curl", "ca-certificates"]
    error_message = "What fetches the package may be missing."
  }

  assert {
    condition = yamldecode(output.user_data).write_files[1] == {
      path = "/etc/mesh-vm-agent/options", permissions = "0644", content = "OPTIONS=--cluster-domain mesh.example\n"
    }
    error_message = "The agent's unit does not get its options."
  }
}

run "an_rpm_in_the_image_is_installed_by_dnf" {
  command = plan
  variables {
    package = "/opt/mesh-vm-agent-0.1.0-1.x86_64.rpm"
  }

  assert {
    condition = [
      for line in split("\n", yamldecode(output.user_data).runcmd[0][2]) : line if can(regex("^(curl|echo|apt|DEBIAN|dnf)", line))
    ] == ["dnf install --assumeyes '/opt/mesh-vm-agent-0.1.0-1.x86_64.rpm'"]
    error_message = "Not by dnf alone, from where it is."
  }
}

run "without_a_token_there_is_no_user_data" {
  command = plan
  variables {
    token = null
  }

  assert {
    condition     = output.user_data == null
    error_message = "A machine would be made that cannot join."
  }

  assert {
    condition     = output.token_command == "meshctl vm token web-1 --cluster core"
    error_message = "Nobody says how to get a token."
  }
}

run "user_data_that_a_cloud_would_cut_are_refused" {
  command = plan
  variables {
    token = "mesh-vm-${join("", [for n in range(1000) : "0123456789abcdef"])}"
  }
  expect_failures = [output.user_data]
}
