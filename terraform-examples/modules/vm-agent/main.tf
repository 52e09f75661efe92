locals {
  from_url = can(regex("^https://", var.package))
  is_rpm   = can(regex("\\.rpm([?]|$)", var.package))
  token_at = "/run/mesh-vm-agent-token"

  join = templatefile("${path.module}/join.sh.tftpl", {
    url       = local.from_url ? var.package : null
    sha256    = var.package_sha256
    file      = local.from_url ? "/run/mesh-vm-agent.${local.is_rpm ? "rpm" : "deb"}" : var.package
    installer = local.is_rpm ? "dnf" : "apt"
    token_at  = local.token_at
  })

  files = concat(
    # In a file, so that no list of processes and no log shows it; the script reads and removes it.
    [{ path = local.token_at, permissions = "0600", content = "${coalesce(var.token, "-")}\n" }],
    length(var.options) == 0 ? [] : [{
      path        = "/etc/mesh-vm-agent/options"
      permissions = "0644"
      content     = "OPTIONS=${join(" ", var.options)}\n"
    }],
  )

  cloud_config = { for key, value in {
    write_files = local.files
    # An image of Debian may lack it; those that take an .rpm have it.
    packages = local.from_url && !local.is_rpm ? ["curl", "ca-certificates"] : null
    runcmd   = [["/bin/sh", "-euc", local.join]]
  } : key => value if value != null }

  # By who serves: the VM itself, and each of its programs.
  served = {
    for who, list in merge({ vm = var.serve }, { for it in var.programs : "program ${it.name}" => it.serve }) :
    who => [
      for it in list : {
        for key, value in { service = it.service, portName = it.port_name, port = it.port } : key => value
        if value != null
      }
    ]
  }

  programs = [
    for it in var.programs : { for key, value in {
      name           = it.name
      unit           = it.unit
      slice          = it.slice
      user           = it.user
      labels         = length(it.labels) == 0 ? null : it.labels
      serviceAccount = it.service_account
      serve          = length(it.serve) == 0 ? null : local.served["program ${it.name}"]
    } : key => value if value != null }
  ]

  workload = { for key, value in {
    labels         = length(var.labels) == 0 ? null : var.labels
    serviceAccount = var.service_account
    namespaces     = length(var.read) == 0 ? null : sort(var.read)
    allNamespaces  = var.read_all ? true : null
    serve          = length(var.serve) == 0 ? null : local.served.vm
    programs       = length(var.programs) == 0 ? null : local.programs
  } : key => value if value != null }

  add = concat(
    ["meshctl vm add ${var.name}", "--cluster ${var.cluster}", "--namespace ${var.namespace}"],
    length(var.labels) == 0 ? [] : ["--labels", join(",", [for key, value in var.labels : "${key}=${value}"])],
    var.service_account == null ? [] : ["--service-account ${var.service_account}"],
    length(var.read) == 0 ? [] : ["--read ${join(",", sort(var.read))}"],
    var.read_all ? ["--read-all"] : [],
    [for it in var.serve : "--serve ${join(":", compact([it.service, it.port_name, it.port]))}"],
    # A unit's name may have a backslash.
    [for it in var.programs : "--program '${join(",", concat(
      [it.unit != null ? "${it.name}=unit:${it.unit}" : "${it.name}=user:${it.user}"],
      it.slice == null ? [] : ["slice=${it.slice}"],
      [for key, value in it.labels : "label=${key}=${value}"],
      it.service_account == null ? [] : ["service-account=${it.service_account}"],
      [for of in it.serve : "serve=${join(":", compact([of.service, of.port_name, of.port]))}"],
    ))}'"],
  )
}
