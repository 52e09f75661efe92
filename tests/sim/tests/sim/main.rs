//! Scripts with what they show, and seeds with what must hold.

mod random;
mod tunnels;

use expect_test::expect_file;

macro_rules! scripts {
    ($(fn $name:ident();)*) => {$(
        #[test]
        fn $name() {
            let script = include_str!(concat!("../../scripts/", stringify!($name), ".txt"));
            expect_file![concat!("../../scripts/", stringify!($name), ".out")].assert_eq(&sim::run(script));
        }
    )*};
}

scripts! {
    fn a_peer_outside_its_contract_is_refused_and_named();
    fn a_limit_is_a_limit_and_who_waited_comes_in();
    fn a_stale_peer_is_demoted_kept_or_dropped();
    fn a_connect_cut_between_its_two_steps_leaves_nobody_alone();
    fn a_connect_survives_every_death_or_undoes_itself();
    fn a_disconnect_closes_what_was_open_and_the_other_side_sees_it();
    fn a_store_from_an_old_copy_fools_nobody();
    fn a_store_that_lost_everything_withdraws_nothing_until_it_has_read_its_source();
    fn a_missed_compaction_is_no_missed_delete();
    fn a_cut_longer_than_the_history_costs_no_list();
    fn a_store_that_lost_everything_gets_its_nodes_keys_again();
    fn a_peering_that_is_prepared_anew_loses_nothing();
    fn a_publisher_that_wakes_after_its_successor_fools_nobody();
    fn a_cluster_joins_two_that_run_and_leaves_them_for_ever();
    fn limits_bite_are_named_and_let_in_who_waited_when_they_go();
}
