//! Names as a host has them: the real server, `dig` and libc on one side, dnsmasq on the other, in a network
//! namespace of each test's own. As root; bind9-dnsutils and dnsmasq-base are in `ci/packages.txt`.

mod answers;
mod files;
mod lab;
mod limits;
mod managers;
