//! Both servers answer alike, and what may differ is a closed list.

mod closed_list;
mod random;
mod scripts;
