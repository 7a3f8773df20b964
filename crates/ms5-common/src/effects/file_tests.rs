//! What cannot run inside a transaction, statement by statement.

use super::testing::statements;
use super::{Outside, Procedures, of_file};

fn files(texts: &[&str]) -> Vec<Vec<Option<Outside>>> {
    let mut procedures = Procedures::default();
    let file = |text: &&str| {
        let all = statements(text);
        of_file(&all.iter().collect::<Vec<_>>(), &mut procedures)
    };
    texts.iter().map(file).collect()
}

fn one(text: &str) -> Option<Outside> {
    let mut found = files(&[text]).remove(0);
    assert_eq!(found.len(), 1, "{text}");
    found.remove(0)
}

fn index(name: Option<&str>, table: &str) -> Outside {
    Outside::CreateIndex {
        name: name.map(str::to_owned),
        table: table.to_owned(),
        per_chunk: false,
        if_not_exists: false,
    }
}

fn commits(what: &str) -> Outside {
    Outside::Commits { what: what.to_owned() }
}

#[test]
fn create_index() {
    let with = |name, table, per_chunk, if_not_exists| match index(name, table) {
        Outside::CreateIndex { name, table, .. } => {
            Outside::CreateIndex { name, table, per_chunk, if_not_exists }
        }
        other => other,
    };
    for (text, expected) in [
        ("create index concurrently i on t (a)", index(Some("i"), "t")),
        ("CREATE UNIQUE INDEX CONCURRENTLY ON factory.t (a)", index(None, "factory.t")),
        ("create index concurrently on only \"S\".\"T\" (a)", index(None, "\"S\".\"T\"")),
        (
            "create -- c\n index /* d */ concurrently \"I\" on \"S\" . /* e */ t (a)",
            index(Some("\"I\""), "\"S\".t"),
        ),
        ("create index concurrently if on t (a)", index(Some("if"), "t")),
        ("create index concurrently if not exists i on t using btree (a)", with(Some("i"), "t", false, true)),
        (
            "create index i on t (a) with (fillfactor = 70, timescaledb.transaction_per_chunk)",
            with(Some("i"), "t", true, false),
        ),
        (
            "create index if not exists on t (a) include (b) with (TimescaleDB.Transaction_Per_Chunk = 'on') where a > 0",
            with(None, "t", true, true),
        ),
        (
            "create index i on t (a) with (tsdb.transaction_per_chunk = true)",
            with(Some("i"), "t", true, false),
        ),
    ] {
        assert_eq!(one(text), Some(expected), "{text}");
    }
    for text in [
        "create index i on t (a)",
        "create index concurrent on t (a)",
        "create index \"concurrently\" on t (a)",
        "create index i on concurrently (a)",
        "create index i on t (a) with (timescaledb.transaction_per_chunk = false)",
        "create index i on t (a) with (transaction_per_chunk)",
        "create index i on t (a) with (timescaledb.other, other.transaction_per_chunk)",
        "create index i on t (a) where b = 'with (timescaledb.transaction_per_chunk)'",
    ] {
        assert_eq!(one(text), None, "{text}");
    }
}

#[test]
fn by_their_words() {
    let name = |name: &str| name.to_owned();
    let drop =
        |names: &[&str]| Outside::DropIndex { names: names.iter().map(|name| name.to_string()).collect() };
    for (text, expected) in [
        ("drop index concurrently a", drop(&["a"])),
        ("DROP INDEX CONCURRENTLY IF EXISTS s.a, \"B\" RESTRICT", drop(&["s.a", "\"B\""])),
        ("reindex table concurrently t", Outside::Reindex { concurrently: true }),
        ("reindex index concurrently s.i", Outside::Reindex { concurrently: true }),
        ("REINDEX (CONCURRENTLY, VERBOSE) TABLE t", Outside::Reindex { concurrently: true }),
        ("reindex (verbose, concurrently on) index i", Outside::Reindex { concurrently: true }),
        ("reindex schema s", Outside::Reindex { concurrently: false }),
        ("reindex (verbose) database d", Outside::Reindex { concurrently: false }),
        ("reindex system", Outside::Reindex { concurrently: false }),
        ("reindex schema concurrently s", Outside::Reindex { concurrently: true }),
        ("vacuum", Outside::Vacuum),
        ("VACUUM (FULL, ANALYZE) t", Outside::Vacuum),
        ("cluster", Outside::Cluster),
        ("cluster verbose", Outside::Cluster),
        ("cluster (verbose)", Outside::Cluster),
        ("alter system set a.b = 1", Outside::AlterSystem),
        ("alter system reset all", Outside::AlterSystem),
        ("discard all", Outside::DiscardAll),
        ("create database \"D\" template template0", Outside::CreateDatabase { name: name("\"D\"") }),
        ("drop database d", Outside::DropDatabase { name: name("d") }),
        ("drop database if exists d with (force)", Outside::DropDatabase { name: name("d") }),
        ("alter database d set tablespace s", Outside::AlterDatabase),
        ("create tablespace s location '/a'", Outside::CreateTablespace { name: name("s") }),
        ("drop tablespace if exists s", Outside::DropTablespace { name: name("s") }),
        (
            "create subscription s connection '' publication p",
            Outside::CreateSubscription { name: name("s") },
        ),
        (
            "create subscription s connection '' publication p with (create_slot, enabled = false)",
            Outside::CreateSubscription { name: name("s") },
        ),
        ("drop subscription if exists s", Outside::DropSubscription { name: name("s") }),
        ("alter subscription s refresh publication", Outside::AlterSubscription),
        ("alter subscription s set publication p", Outside::AlterSubscription),
        ("alter subscription s add publication p, q with (refresh = true)", Outside::AlterSubscription),
        ("alter subscription s drop publication p with (copy_data = false)", Outside::AlterSubscription),
        ("alter subscription s set (failover = true)", Outside::AlterSubscription),
        ("alter subscription s set (binary, two_phase = false)", Outside::AlterSubscription),
        ("alter extension timescaledb update", Outside::UpdateExtension { name: name("timescaledb") }),
        (
            "alter extension \"timescaledb\" update to '2.27.2'",
            Outside::UpdateExtension { name: name("\"timescaledb\"") },
        ),
        (
            "alter table if exists only s.t detach partition s.p concurrently",
            Outside::DetachPartition { table: name("s.t"), partition: name("s.p") },
        ),
        ("call refresh_continuous_aggregate('v', null, null)", Outside::Refresh),
        ("call public.\"refresh_continuous_aggregate\"('v', null, null)", Outside::Refresh),
        ("call run_job(1000)", commits("run_job")),
        ("call recompress_chunk('c')", commits("recompress_chunk")),
        ("call _timescaledb_functions.policy_compression(1, '{}')", commits("policy_compression")),
        ("call _timescaledb_functions.policy_compression_execute(1)", commits("policy_compression_execute")),
        ("call _timescaledb_functions.policy_recompression(1, null)", commits("policy_recompression")),
        (
            "call _timescaledb_functions.policy_refresh_continuous_aggregate(1, null)",
            commits("policy_refresh_continuous_aggregate"),
        ),
        ("call cagg_migrate('v')", commits("cagg_migrate")),
        ("call merge_chunks_concurrently(array['a', 'b'])", commits("merge_chunks_concurrently")),
        ("call merge_chunks('a', 'b', true)", commits("merge_chunks")),
        ("call merge_chunks('a', 'b', concurrently => true)", commits("merge_chunks")),
        ("select reorder_chunk('c', 'i')", commits("reorder_chunk")),
        ("select 1, public.move_chunk(chunk => 'c')", commits("move_chunk")),
        ("with a as (select 1) select move_chunk('c') from a", commits("move_chunk")),
        (
            "select pg_create_logical_replication_slot('s', 'pgoutput')",
            commits("pg_create_logical_replication_slot"),
        ),
    ] {
        assert_eq!(one(text), Some(expected), "{text}");
    }
}

#[test]
fn what_may_run_inside() {
    for text in [
        "drop index a",
        "drop index \"concurrently\"",
        "reindex table t",
        "reindex (concurrently off, verbose) table t",
        "reindex (verbose) index concurrentlyx",
        "analyze verbose t",
        "cluster t using i",
        "cluster verbose t",
        "cluster (verbose) t",
        "discard temp",
        "alter database d set work_mem = '1MB'",
        "alter database d set tablespace = x",
        "alter database d set tablespace to x",
        "alter database d rename to e",
        "alter tablespace s rename to u",
        "create subscription s connection '' publication p with (create_slot = false)",
        "create subscription s connection '' publication p with (enabled = false, connect = 'off')",
        "alter subscription s set publication p with (refresh = false)",
        "alter subscription s set (slot_name = none)",
        "alter subscription s disable",
        "alter extension timescaledb add table t",
        "alter extension postgis update",
        "alter table t detach partition p",
        "alter table t detach partition p finalize",
        "alter table system add column a int",
        "alter type e add value 'a'",
        "call add_columnstore_policy('t', interval '1 day')",
        "call convert_to_columnstore('c')",
        "call convert_to_rowstore('c')",
        "call merge_chunks('a', 'b')",
        "call merge_chunks('a', 'b', false)",
        "call merge_chunks('a', 'b', concurrently => false)",
        "call mine()",
        "select 'reorder_chunk(1)'",
        "select move_chunk from t",
        "select compress_chunk('c')",
        "create table vacuum_log (a int)",
        "repack_all",
        "insert into t values ('vacuum')",
    ] {
        assert_eq!(one(text), None, "{text}");
    }
}

#[test]
fn continuous_aggregates() {
    let view = |name: &str| Some(Outside::ContinuousAggregate { name: name.to_owned() });
    for (text, expected) in [
        ("create materialized view v with (timescaledb.continuous) as select 1", view("v")),
        (
            "create materialized view if not exists s.v (a, b) with (tsdb.continuous = true, timescaledb.materialized_only) \
             as select 1 from t group by 1 with data",
            view("s.v"),
        ),
        ("create materialized view v with (timescaledb.continuous) as select 1 with no data", None),
        ("create materialized view v with (timescaledb.continuous = false) as select 1", None),
        ("create materialized view v with (fillfactor = 70) as select 1", None),
        ("create materialized view v as with (timescaledb.continuous) as select 1", None),
    ] {
        assert_eq!(one(text), expected, "{text}");
    }
}

#[test]
fn blocks() {
    for (text, expected) in [
        ("do $$ begin commit; end $$", Some(commits("COMMIT"))),
        (
            "do $$ begin insert into t values (1); /* c */ rollback and chain; end $$",
            Some(commits("ROLLBACK")),
        ),
        ("do language plpgsql 'begin if a then commit; end if; end'", Some(commits("COMMIT"))),
        ("do $$ begin loop commit; end loop; end $$ language plpgsql", Some(commits("COMMIT"))),
        ("do $$ begin if a then null; else commit; end if; end $$", Some(commits("COMMIT"))),
        ("do $$ <<a>> begin <<b>> commit; end $$", Some(commits("COMMIT"))),
        (
            "do $$ begin call refresh_continuous_aggregate('v', null, null); end $$",
            Some(commits("refresh_continuous_aggregate")),
        ),
        ("do $$ begin raise notice 'commit;'; end $$", None),
        ("do $$ begin perform commit; end $$", None),
        ("do $$ begin -- ; commit;\n null; end $$", None),
        ("do $$ begin call mine(); end $$", None),
        ("do $$ begin perform a from call run_job; end $$", None),
        ("do language plpython3u $$ begin; commit; $$", None),
        ("create function f() returns int language plpgsql as $$ begin commit; end $$", None),
    ] {
        assert_eq!(one(text), expected, "{text}");
    }
}

#[test]
fn procedures_are_known_from_file_to_file() {
    let make =
        "create or replace procedure s.p(a int default f(1)) language plpgsql as $$ begin commit; end $$;";
    let found = files(&[
        make,
        "call s.p(1); call p(1); call t.p(1); call S.\"P\"(1); do $$ begin call s.p(1); end $$;",
        "create procedure q() as $$ begin call p(1); end $$ language 'plpgsql'; call q();",
        "create or replace procedure s.p() language plpgsql as $$ begin null; end $$; call s.p();",
        make,
        "drop procedure if exists a, s.p; call s.p();",
        "create procedure r() language plpython3u as $$ begin commit; end $$; call r();",
    ]);
    assert_eq!(found[0], [None]);
    assert_eq!(found[1], [Some(commits("s.p")), Some(commits("p")), None, None, Some(commits("s.p"))]);
    assert_eq!(found[2], [None, Some(commits("q"))]);
    assert_eq!(found[3], [None, None]);
    assert_eq!(found[5], [None, None]);
    assert_eq!(found[6], [None, None]);
}

#[test]
fn values_of_enums() {
    let value = |type_name: &str, value: &str| {
        Some(Outside::EnumValue { type_name: type_name.to_owned(), value: value.to_owned() })
    };
    for (text, expected) in [
        (
            "alter type s.e add value if not exists 'a'; insert into t values ('a');",
            vec![value("s.e", "a"), None],
        ),
        ("alter type e add value 'a''b'; insert into t values (e'a\\'b');", vec![value("e", "a'b"), None]),
        (
            "alter type e add value 'a' before 'b'; do $$ begin insert into t values ('a'); end $$;",
            vec![value("e", "a"), None],
        ),
        ("alter type e add value 'a'; alter table t alter c set default 'a';", vec![value("e", "a"), None]),
        // The type is new as well, unless something before was committed.
        (
            "create type s.e as enum (); alter type e add value 'a'; insert into t values ('a');",
            vec![None, None, None],
        ),
        (
            "create type e as enum (); vacuum; alter type e add value 'a'; insert into t values ('a');",
            vec![None, Some(Outside::Vacuum), value("e", "a"), None],
        ),
        (
            "create type d as enum (); alter type e add value 'a'; select 'a';",
            vec![None, value("e", "a"), None],
        ),
        // Committed before it is used.
        (
            "alter type e add value 'a'; vacuum; insert into t values ('a');",
            vec![None, Some(Outside::Vacuum), None],
        ),
        ("insert into t values ('a'); alter type e add value 'a';", vec![None, None]),
        ("alter type e add value 'a'; insert into t values ('b', a);", vec![None, None]),
        ("alter type e add value 'a'; alter type e add value 'b' after 'a';", vec![None, None]),
        (
            "alter type e add value 'a'; alter type e add value 'b'; select 'a', 'b';",
            vec![value("e", "a"), value("e", "b"), None],
        ),
        (
            "alter type e add value 'a' \\; select 'a';",
            vec![value("e", "a").map(|inner| Outside::Joined(Box::new(inner)))],
        ),
    ] {
        assert_eq!(files(&[text])[0], expected, "{text}");
    }
}

#[test]
fn joined_statements() {
    let joined = |inner| Some(Outside::Joined(Box::new(inner)));
    assert_eq!(one("select 1 \\; vacuum t"), joined(Outside::Vacuum));
    assert_eq!(one("create index concurrently i on t (a) \\; select 1"), joined(index(Some("i"), "t")));
    assert_eq!(one("select 1 \\; select 2"), None);
    assert_eq!(joined(Outside::Vacuum).map(|outside| outside.words()), Some("VACUUM"));
}
