//! What the other statements lock, held against pg_locks of a server.

use super::testing::{assert_effects, statement};
use super::{Rewrite, effects};

#[test]
fn locks_and_rewrites() {
    assert_effects(&[
        ("create local temporary table q (a int references t)", "ShareRowExclusiveLock t", Rewrite::No),
        ("create foreign table q partition of t default server s", "AccessExclusiveLock t", Rewrite::No),
        (
            "create or replace temp recursive view v (a) as select b from t",
            "AccessExclusiveLock v, AccessShareLock t",
            Rewrite::No,
        ),
        ("analyse t", "ShareUpdateExclusiveLock t", Rewrite::No),
        ("vacuum analyse t", "ShareUpdateExclusiveLock t", Rewrite::Scan),
        ("lock table a, r in share mode", "ShareLock a, ShareLock r", Rewrite::No),
        ("lock a in access share mode", "AccessShareLock a", Rewrite::No),
        ("lock a", "AccessExclusiveLock a", Rewrite::No),
        ("lock only a in row exclusive mode nowait", "RowExclusiveLock a", Rewrite::No),
        ("lock a in share update exclusive mode", "ShareUpdateExclusiveLock a", Rewrite::No),
        ("lock a in share row exclusive mode", "ShareRowExclusiveLock a", Rewrite::No),
        ("lock a in exclusive mode", "ExclusiveLock a", Rewrite::No),
        ("lock a in row share mode", "RowShareLock a", Rewrite::No),
        ("truncate table c, r", "AccessExclusiveLock c, AccessExclusiveLock r", Rewrite::No),
        ("drop table c", "AccessExclusiveLock c", Rewrite::No),
        ("drop view vw", "AccessExclusiveLock vw", Rewrite::No),
        ("drop materialized view mv", "AccessExclusiveLock mv", Rewrite::No),
        ("drop index a_x", "AccessExclusiveLock a_x, AccessExclusiveLock the table of a_x", Rewrite::No),
        ("drop sequence sq", "AccessExclusiveLock sq", Rewrite::No),
        ("drop trigger tg on a", "AccessExclusiveLock a", Rewrite::No),
        ("drop rule ru on r", "AccessExclusiveLock r", Rewrite::No),
        ("drop policy po on a", "AccessExclusiveLock a", Rewrite::No),
        ("create index on a (s)", "ShareLock a", Rewrite::Scan),
        ("create index on only par (v)", "ShareLock par", Rewrite::Scan),
        (
            "create trigger t2 after insert on a for each statement execute function tf()",
            "ShareRowExclusiveLock a",
            Rewrite::No,
        ),
        (
            "create constraint trigger t3 after insert on a deferrable for each row execute function tf()",
            "ShareRowExclusiveLock a",
            Rewrite::No,
        ),
        (
            "create or replace trigger tg after insert on a for each statement execute function tf()",
            "ShareRowExclusiveLock a",
            Rewrite::No,
        ),
        ("create rule r2 as on delete to c do also nothing", "AccessExclusiveLock c", Rewrite::No),
        ("create policy p2 on r using (id in (select id from a))", "AccessExclusiveLock r", Rewrite::No),
        ("create statistics s2 on id, y from r", "ShareUpdateExclusiveLock r", Rewrite::No),
        (
            "create publication p3 for table a, r",
            "ShareUpdateExclusiveLock a, ShareUpdateExclusiveLock r",
            Rewrite::No,
        ),
        (
            "create view v2 as select * from a join r using (id)",
            "AccessShareLock a, AccessShareLock r",
            Rewrite::No,
        ),
        (
            "create or replace view vw as select id from a",
            "AccessExclusiveLock vw, AccessShareLock a",
            Rewrite::No,
        ),
        ("create materialized view m2 as select * from a", "AccessShareLock a", Rewrite::No),
        (
            "create table n1 (id int primary key references a(id), y int, foreign key (y) references r (id))",
            "ShareRowExclusiveLock a, ShareRowExclusiveLock r",
            Rewrite::No,
        ),
        ("create table n2 (like a including all)", "AccessShareLock a", Rewrite::No),
        ("create table n3 () inherits (inh)", "ShareUpdateExclusiveLock inh", Rewrite::No),
        ("create table n4 partition of par for values in (7)", "AccessExclusiveLock par", Rewrite::No),
        ("create table n5 as select * from a", "AccessShareLock a", Rewrite::No),
        ("comment on table a is 'x'", "ShareUpdateExclusiveLock a", Rewrite::No),
        ("comment on column public.a.x is 'x'", "ShareUpdateExclusiveLock public.a", Rewrite::No),
        ("comment on constraint vc on c is 'x'", "AccessShareLock c", Rewrite::No),
        ("comment on trigger tg on a is 'x'", "AccessShareLock a", Rewrite::No),
        ("comment on view vw is 'x'", "ShareUpdateExclusiveLock vw", Rewrite::No),
        ("comment on index a_x is 'x'", "ShareUpdateExclusiveLock a_x", Rewrite::No),
        ("comment on policy po on a is 'x'", "AccessShareLock a", Rewrite::No),
        ("comment on rule ru on r is 'x'", "AccessShareLock r", Rewrite::No),
        ("comment on type en is 'x'", "", Rewrite::No),
        ("comment on materialized view mv is 'x'", "ShareUpdateExclusiveLock mv", Rewrite::No),
        ("grant select on a to public", "", Rewrite::No),
        ("refresh materialized view mv", "AccessExclusiveLock mv", Rewrite::Yes),
        ("refresh materialized view concurrently mv", "ExclusiveLock mv", Rewrite::Scan),
        ("refresh materialized view mv with no data", "AccessExclusiveLock mv", Rewrite::No),
        ("cluster a using a_x", "AccessExclusiveLock a", Rewrite::Yes),
        ("cluster a_x on a", "AccessExclusiveLock a", Rewrite::Yes),
        ("reindex table a", "ShareLock a", Rewrite::Scan),
        ("reindex index a_x", "AccessExclusiveLock a_x, ShareLock the table of a_x", Rewrite::Scan),
        ("analyze a", "ShareUpdateExclusiveLock a", Rewrite::No),
        ("analyze verbose a (x), r", "ShareUpdateExclusiveLock a, ShareUpdateExclusiveLock r", Rewrite::No),
        (
            "create view v9 as with z as (select * from a) select x from z, m",
            "AccessShareLock a, AccessShareLock m",
            Rewrite::No,
        ),
        ("create temp table tt as select * from a", "AccessShareLock a", Rewrite::No),
        (
            "create table n9 (like a including defaults, id9 int references m)",
            "ShareRowExclusiveLock m, AccessShareLock a",
            Rewrite::No,
        ),
        ("drop table if exists m, m2", "AccessExclusiveLock m, AccessExclusiveLock m2", Rewrite::No),
        ("drop table nope", "AccessExclusiveLock nope", Rewrite::No),
        ("drop function uf()", "", Rewrite::No),
        (
            "lock table a, only inh * in access exclusive mode",
            "AccessExclusiveLock a, AccessExclusiveLock inh",
            Rewrite::No,
        ),
        (
            "truncate m, only m2 restart identity",
            "AccessExclusiveLock m, AccessExclusiveLock m2",
            Rewrite::No,
        ),
        ("comment on column a.x is null", "ShareUpdateExclusiveLock a", Rewrite::No),
        ("comment on sequence sq is 'x'", "ShareUpdateExclusiveLock sq", Rewrite::No),
        ("comment on constraint k on domain dom is 'x'", "", Rewrite::No),
        ("comment on function uf() is 'x'", "", Rewrite::No),
        ("grant select on all tables in schema public to public", "", Rewrite::No),
        ("create function f9() returns int language sql as 'select 1 from a'", "", Rewrite::No),
        ("create unique index concurrently on m2 (y)", "ShareUpdateExclusiveLock m2", Rewrite::Scan),
        ("vacuum", "ShareUpdateExclusiveLock every table", Rewrite::Scan),
        ("vacuum m", "ShareUpdateExclusiveLock m", Rewrite::Scan),
        ("vacuum full m", "AccessExclusiveLock m", Rewrite::Yes),
        ("vacuum (full, analyze) m, m2", "AccessExclusiveLock m, AccessExclusiveLock m2", Rewrite::Yes),
        ("vacuum (full off) m", "ShareUpdateExclusiveLock m", Rewrite::Scan),
        ("vacuum verbose analyze m (id)", "ShareUpdateExclusiveLock m", Rewrite::Scan),
        ("vacuum freeze verbose", "ShareUpdateExclusiveLock every table", Rewrite::Scan),
        ("analyze", "ShareUpdateExclusiveLock every table", Rewrite::No),
        ("cluster", "AccessExclusiveLock every clustered table", Rewrite::Yes),
        ("reindex schema public", "ShareLock every table of public", Rewrite::Scan),
        ("reindex (concurrently) table m", "ShareUpdateExclusiveLock m", Rewrite::Scan),
        (
            "reindex index concurrently a_x",
            "ShareUpdateExclusiveLock the table of a_x, ShareUpdateExclusiveLock a_x",
            Rewrite::Scan,
        ),
        (
            "drop index concurrently a_x, a_n",
            "ShareUpdateExclusiveLock a_x, ShareUpdateExclusiveLock a_n, ShareUpdateExclusiveLock the table of a_x, ShareUpdateExclusiveLock the table of a_n",
            Rewrite::No,
        ),
        ("set search_path = a", "", Rewrite::No),
        (
            "create view v9 as with z as (select * from a) select z.x from z, m",
            "AccessShareLock a, AccessShareLock m",
            Rewrite::No,
        ),
        ("create unlogged table q9 (id int references a)", "ShareRowExclusiveLock a", Rewrite::No),
        ("comment on column a.x is 'q'", "ShareUpdateExclusiveLock a", Rewrite::No),
        (
            "create publication x9 for table only a where (id > 1), r (id, y)",
            "ShareUpdateExclusiveLock a, ShareUpdateExclusiveLock r",
            Rewrite::No,
        ),
        (
            "create unique index if not exists \"I\" on only \"S\".\"T\" (a)",
            "ShareLock \"S\".\"T\"",
            Rewrite::Scan,
        ),
        ("create index on t using btree (a) where a in (select 1)", "ShareLock t", Rewrite::Scan),
        ("create foreign table ft (a int) server s", "", Rewrite::No),
        ("create global temp table q (a int references a)", "ShareRowExclusiveLock a", Rewrite::No),
        (
            "create unlogged table q partition of par for values in (1)",
            "AccessExclusiveLock par",
            Rewrite::No,
        ),
        (
            "create trigger x after update of a, b on s.t from u for each row execute function f('on')",
            "ShareRowExclusiveLock s.t",
            Rewrite::No,
        ),
        (
            "create or replace rule x as on insert to s.t where (new.a > 0) do instead nothing",
            "AccessExclusiveLock s.t",
            Rewrite::No,
        ),
        (
            "create statistics if not exists x (mcv) on a, b from s.t",
            "ShareUpdateExclusiveLock s.t",
            Rewrite::No,
        ),
        ("create publication x for all tables", "", Rewrite::No),
        ("create publication x for tables in schema s", "", Rewrite::No),
        (
            "create publication x for table a (id), only b * where (id > 1), tables in schema s",
            "ShareUpdateExclusiveLock a, ShareUpdateExclusiveLock b",
            Rewrite::No,
        ),
        ("create or replace view s.v as select 1", "AccessExclusiveLock s.v", Rewrite::No),
        ("create schema s", "", Rewrite::No),
        ("create extension e", "", Rewrite::No),
        ("drop foreign table if exists t, u", "AccessExclusiveLock t, AccessExclusiveLock u", Rewrite::No),
        ("drop materialized view v", "AccessExclusiveLock v", Rewrite::No),
        ("drop trigger if exists x on s.t cascade", "AccessExclusiveLock s.t", Rewrite::No),
        ("drop rule x on t", "AccessExclusiveLock t", Rewrite::No),
        ("drop policy x on t", "AccessExclusiveLock t", Rewrite::No),
        ("lock table t in share mode nowait", "ShareLock t", Rewrite::No),
        ("lock t, u in row share mode", "RowShareLock t, RowShareLock u", Rewrite::No),
        ("security label for p on table t is 'x'", "ShareUpdateExclusiveLock t", Rewrite::No),
        ("comment on foreign table t is 'x'", "ShareUpdateExclusiveLock t", Rewrite::No),
        ("comment on column s.t.c is 'x'", "ShareUpdateExclusiveLock s.t", Rewrite::No),
        ("comment on rule r on t is 'x'", "AccessShareLock t", Rewrite::No),
        ("comment on materialized view v is 'x'", "ShareUpdateExclusiveLock v", Rewrite::No),
        ("comment on view v is 'x'", "ShareUpdateExclusiveLock v", Rewrite::No),
        ("comment on database d is 'x'", "", Rewrite::No),
        ("analyze (verbose) t (a), u", "ShareUpdateExclusiveLock t, ShareUpdateExclusiveLock u", Rewrite::No),
        ("vacuum full", "AccessExclusiveLock every table", Rewrite::Yes),
        ("vacuum (verbose, full true) t", "AccessExclusiveLock t", Rewrite::Yes),
        ("cluster verbose t using i", "AccessExclusiveLock t", Rewrite::Yes),
        ("cluster i on t", "AccessExclusiveLock t", Rewrite::Yes),
        ("cluster (verbose) t", "AccessExclusiveLock t", Rewrite::Yes),
        ("refresh materialized view concurrently v with data", "ExclusiveLock v", Rewrite::Scan),
        ("refresh materialized view v with no data", "AccessExclusiveLock v", Rewrite::No),
        ("reindex (verbose) table t", "ShareLock t", Rewrite::Scan),
        ("reindex database d", "ShareLock every table", Rewrite::Scan),
        ("reindex index s.i", "AccessExclusiveLock s.i, ShareLock the table of s.i", Rewrite::Scan),
        (
            "create table q as with z as (select * from a) select * from z, r",
            "AccessShareLock a, AccessShareLock r",
            Rewrite::No,
        ),
        ("drop schema s", "", Rewrite::No),
    ]);
}

#[test]
fn what_is_not_looked_into() {
    let code = "runs code that is not looked into";
    let dependents = "reaches objects that its text does not name";
    let functions = "calls functions that are not looked into";
    let unread = "is not known well enough to say what it locks";
    for (text, expected) in [
        ("select uf()", functions),
        ("do $$ begin end $$", code),
        ("drop schema public cascade", dependents),
        ("drop owned by nobody", dependents),
        ("drop type en cascade", dependents),
        ("alter extension timescaledb update", code),
        ("execute p", code),
        ("call pc()", code),
        ("repack a", unread),
        ("create materialized view if not exists mv as execute p", code),
        ("truncate only t, u * cascade", dependents),
        ("do 'begin end'", code),
        ("execute p (1)", code),
        ("select f(1)", functions),
        ("select count(*), \"F\"(1) from t", functions),
        ("select create_hypertable(f(), 'time')", functions),
        ("alter table", unread),
        ("alter extension e update", code),
        ("import foreign schema s from server x into y", code),
        ("reassign owned by a to b", dependents),
        ("drop schema s cascade", dependents),
        ("drop owned by a", dependents),
        ("drop extension e", dependents),
        ("refresh x", unread),
        ("repack t", unread),
    ] {
        assert_eq!(effects(&statement(text)).opaque, Some(expected), "{text}");
    }
}

#[test]
fn what_locks_no_table() {
    for text in "grant a to b, revoke a from b, set a = b, reset a, show a, listen a, unlisten a, notify a, load 'a', \
                 prepare transaction 'a', deallocate a, discard all, checkpoint, begin, start transaction, commit, end, \
                 rollback, abort, savepoint a, release a, fetch a, move a, close a"
        .split(", ")
    {
        assert_effects(&[(text, "", Rewrite::No)]);
    }
}

#[test]
fn several_in_one_message() {
    let all = effects(&statement(
        "lock t in share mode \\; update t set a = 1 \\; alter table t add column b serial \\; do ''",
    ));
    assert_eq!(all.locks.len(), 1);
    assert_eq!(all.locks[0].mode.to_string(), "AccessExclusiveLock");
    assert_eq!((all.rewrite, all.opaque), (Rewrite::Yes, Some("runs code that is not looked into")));
}
