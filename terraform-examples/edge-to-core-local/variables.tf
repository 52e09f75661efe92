variable "bin" {
  description = "Where the mesh's programs and the lab's are: `make release` puts them into target/release."
  type        = string
  default     = "../../target/release"
  nullable    = false

  validation {
    condition     = fileexists("${var.bin}/mesh-lab") && fileexists("${var.bin}/clustermesh-apiserver")
    error_message = "There is no mesh-lab or no clustermesh-apiserver in this directory: run `make release` in the checkout, or say where they are."
  }
}
