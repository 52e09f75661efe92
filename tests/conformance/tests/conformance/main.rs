//! Both servers answer alike, what may differ is a closed list, and both keep etcd's promises to many at once.

mod closed_list;
mod histories;
mod random;
mod scripts;
