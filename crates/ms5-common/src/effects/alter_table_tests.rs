//! What ALTER locks and rewrites, held against pg_locks and the file numbers of a server.

use super::Rewrite;
use super::testing::{PERHAPS, assert_effects};

#[test]
fn locks_and_rewrites() {
    assert_effects(&[
        ("alter table a add column z int", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a add column z int default 5", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a add column z timestamptz default now()", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a add column z float default random()", "AccessExclusiveLock a", Rewrite::Yes),
        ("alter table a add column z uuid default gen_random_uuid()", "AccessExclusiveLock a", Rewrite::Yes),
        ("alter table a add column z int default uf()", "AccessExclusiveLock a", PERHAPS),
        ("alter table a add column z serial", "AccessExclusiveLock a", Rewrite::Yes),
        (
            "alter table a add column z int generated always as (x + 1) stored",
            "AccessExclusiveLock a",
            Rewrite::Yes,
        ),
        (
            "alter table a add column z int generated always as identity",
            "AccessExclusiveLock a",
            Rewrite::Yes,
        ),
        ("alter table a add column z dom", "AccessExclusiveLock a", PERHAPS),
        (
            "alter table a add column z int references r(id)",
            "AccessExclusiveLock a, ShareRowExclusiveLock r",
            Rewrite::Scan,
        ),
        ("alter table a add column z int check (z > 0)", "AccessExclusiveLock a", Rewrite::Scan),
        ("alter table a add column z int unique", "AccessExclusiveLock a", Rewrite::Scan),
        (
            "alter table a add column z numeric(10,2) default 1.5::numeric(10,2)",
            "AccessExclusiveLock a",
            Rewrite::No,
        ),
        ("alter table a drop column n", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a alter column x type bigint", "AccessExclusiveLock a", PERHAPS),
        ("alter table a alter s type varchar(20)", "AccessExclusiveLock a", PERHAPS),
        ("alter table a alter column x set default 1", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a alter column x set not null", "AccessExclusiveLock a", Rewrite::Scan),
        ("alter table a alter x drop not null", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a alter x set statistics 10", "ShareUpdateExclusiveLock a", Rewrite::No),
        ("alter table a alter x set (n_distinct = 5)", "ShareUpdateExclusiveLock a", Rewrite::No),
        ("alter table a alter s set storage external", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a alter s set compression pglz", "AccessExclusiveLock a", Rewrite::No),
        ("alter table g alter b drop expression", "AccessExclusiveLock g", Rewrite::No),
        ("alter table g alter i set generated always", "AccessExclusiveLock g", Rewrite::No),
        ("alter table g alter i drop identity", "AccessExclusiveLock g", Rewrite::No),
        ("alter table a add constraint k check (x > 0)", "AccessExclusiveLock a", Rewrite::Scan),
        ("alter table a add constraint k check (x > 0) not valid", "AccessExclusiveLock a", Rewrite::No),
        (
            "alter table r add constraint k foreign key (a_id) references a (id)",
            "ShareRowExclusiveLock a, ShareRowExclusiveLock r",
            Rewrite::Scan,
        ),
        (
            "alter table r add constraint k foreign key (a_id) references a (id) not valid",
            "ShareRowExclusiveLock a, ShareRowExclusiveLock r",
            Rewrite::No,
        ),
        ("alter table a add unique (x)", "AccessExclusiveLock a", Rewrite::Scan),
        ("alter table a add exclude using btree (x with =)", "AccessExclusiveLock a", Rewrite::Scan),
        (
            "alter table r add foreign key (id) references a",
            "ShareRowExclusiveLock a, ShareRowExclusiveLock r",
            Rewrite::Scan,
        ),
        ("alter table c validate constraint vc", "ShareUpdateExclusiveLock c", Rewrite::Scan),
        ("alter table c validate constraint fk", "ShareUpdateExclusiveLock c", Rewrite::Scan),
        ("alter table c drop constraint vc", "AccessExclusiveLock c", Rewrite::No),
        ("alter table c drop constraint fk", "AccessExclusiveLock c", Rewrite::No),
        ("alter table c alter constraint fk deferrable", "AccessExclusiveLock c", Rewrite::No),
        ("alter table a disable trigger tg", "ShareRowExclusiveLock a", Rewrite::No),
        ("alter table a enable always trigger tg", "ShareRowExclusiveLock a", Rewrite::No),
        ("alter table r disable rule ru", "AccessExclusiveLock r", Rewrite::No),
        ("alter table a enable row level security", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a force row level security", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a cluster on a_x", "ShareUpdateExclusiveLock a", Rewrite::No),
        ("alter table a set without cluster", "ShareUpdateExclusiveLock a", Rewrite::No),
        (
            "alter table a set (fillfactor = 70, autovacuum_enabled = false)",
            "ShareUpdateExclusiveLock a",
            Rewrite::No,
        ),
        ("alter table a reset (toast_tuple_target)", "ShareUpdateExclusiveLock a", Rewrite::No),
        ("alter table a set (user_catalog_table = true)", "AccessExclusiveLock a", Rewrite::No),
        (
            "alter table a set (parallel_workers = 2, vacuum_truncate = off, vacuum_index_cleanup = off, log_autovacuum_min_duration = 5)",
            "ShareUpdateExclusiveLock a",
            Rewrite::No,
        ),
        ("alter table a set (toast.autovacuum_enabled = off)", "ShareUpdateExclusiveLock a", Rewrite::No),
        ("alter table a set logged", "AccessExclusiveLock a", PERHAPS),
        ("alter table dt set unlogged", "AccessExclusiveLock dt", PERHAPS),
        ("alter table a set tablespace pg_default", "AccessExclusiveLock a", PERHAPS),
        ("alter table a set access method heap", "AccessExclusiveLock a", PERHAPS),
        ("alter table a inherit inh", "AccessExclusiveLock a, ShareUpdateExclusiveLock inh", Rewrite::No),
        ("alter table a replica identity full", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a owner to postgres", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a rename to b", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a rename column x to xx", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a rename constraint a_pkey to pk", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a set schema pg_temp", "AccessExclusiveLock a", Rewrite::No),
        (
            "alter table par attach partition par2 for values in (2)",
            "AccessExclusiveLock par2, ShareUpdateExclusiveLock par",
            Rewrite::Scan,
        ),
        (
            "alter table par detach partition par1",
            "AccessExclusiveLock par1, AccessExclusiveLock par",
            Rewrite::No,
        ),
        ("alter table a add column z int, alter x set statistics 10", "AccessExclusiveLock a", Rewrite::No),
        (
            "alter table a alter x set statistics 10, validate constraint a_pkey",
            "ShareUpdateExclusiveLock a",
            Rewrite::Scan,
        ),
        ("alter index a_x rename to a_y", "ShareUpdateExclusiveLock a_x", Rewrite::No),
        ("alter index a_x set (fillfactor = 50)", "ShareUpdateExclusiveLock a_x", Rewrite::No),
        ("alter index a_x set tablespace pg_default", "AccessExclusiveLock a_x", PERHAPS),
        ("alter table a_x rename to a_y", "AccessExclusiveLock a_x", Rewrite::No),
        ("alter view vw rename to vx", "AccessExclusiveLock vw", Rewrite::No),
        ("alter view vw alter id set default 1", "AccessExclusiveLock vw", Rewrite::No),
        ("alter materialized view mv set (fillfactor = 50)", "ShareUpdateExclusiveLock mv", Rewrite::No),
        ("alter materialized view mv rename to mw", "AccessExclusiveLock mv", Rewrite::No),
        ("alter sequence sq restart 5", "ShareRowExclusiveLock sq", Rewrite::No),
        ("alter sequence sq owner to postgres", "AccessExclusiveLock sq", Rewrite::No),
        ("alter sequence sq rename to sr", "AccessExclusiveLock sq", Rewrite::No),
        ("alter sequence sq owned by a.x", "ShareRowExclusiveLock sq", Rewrite::No),
        ("alter trigger tg2 on a rename to tg3", "AccessExclusiveLock a", Rewrite::No),
        ("alter policy po on a using (false)", "AccessExclusiveLock a", Rewrite::No),
        ("alter rule ru on r rename to rv", "AccessExclusiveLock r", Rewrite::No),
        ("alter publication pub add table a", "ShareUpdateExclusiveLock a", Rewrite::No),
        ("alter publication pub drop table r", "ShareUpdateExclusiveLock r", Rewrite::No),
        (
            "alter publication pub set table a, r",
            "ShareUpdateExclusiveLock a, ShareUpdateExclusiveLock r",
            Rewrite::No,
        ),
        (
            "alter domain dom add constraint dc check (value > 0)",
            "ShareLock every table with a column of dom",
            Rewrite::Scan,
        ),
        ("alter domain dom set not null", "ShareLock every table with a column of dom", Rewrite::Scan),
        ("alter domain dom add constraint dc check (value > 0) not valid", "", Rewrite::No),
        ("alter domain dom set default 1", "", Rewrite::No),
        (
            "alter table m add column z int references r, add column w int default random(), drop column y",
            "AccessExclusiveLock m, ShareRowExclusiveLock r",
            Rewrite::Yes,
        ),
        (
            "alter table if exists only m add foreign key (y) references a",
            "ShareRowExclusiveLock a, ShareRowExclusiveLock m",
            Rewrite::Scan,
        ),
        ("alter table a add column z varchar(10) default lower('X')", "AccessExclusiveLock a", PERHAPS),
        (
            "alter table a add column z timestamp(3) with time zone default current_timestamp",
            "AccessExclusiveLock a",
            Rewrite::No,
        ),
        ("alter table a add column z int[] default array[1, 2]", "AccessExclusiveLock a", Rewrite::No),
        (
            "alter table a add column z jsonb not null default '{}'::jsonb",
            "AccessExclusiveLock a",
            Rewrite::No,
        ),
        ("alter table a add column z en", "AccessExclusiveLock a", PERHAPS),
        (
            "alter table a add column z double precision default 1 check (random() < 2)",
            "AccessExclusiveLock a",
            Rewrite::Scan,
        ),
        ("alter table a add column z uuid default uuid_generate_v4()", "AccessExclusiveLock a", Rewrite::Yes),
        ("alter table a add column z date default now()::date", "AccessExclusiveLock a", Rewrite::No),
        (
            "alter table a add column z text default (current_setting('x.y', true))",
            "AccessExclusiveLock a",
            Rewrite::No,
        ),
        ("alter table a alter column x type int using x + 1", "AccessExclusiveLock a", PERHAPS),
        ("alter table a alter s type text", "AccessExclusiveLock a", PERHAPS),
        ("alter table a alter s set data type varchar", "AccessExclusiveLock a", PERHAPS),
        ("alter table a disable trigger all", "ShareRowExclusiveLock a", Rewrite::No),
        ("alter table a drop column if exists n cascade", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a alter constraint a_pkey not deferrable", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a add constraint u unique using index mvi", "AccessExclusiveLock a", Rewrite::No),
        (
            "alter table par detach partition par1 concurrently",
            "AccessExclusiveLock par1, ShareUpdateExclusiveLock par",
            Rewrite::No,
        ),
        (
            "alter table all in tablespace pg_default set tablespace pg_default",
            "AccessExclusiveLock every relation in tablespace pg_default",
            Rewrite::Yes,
        ),
        (
            "alter index par_i attach partition par1_k",
            "AccessExclusiveLock par1_k, ShareUpdateExclusiveLock par_i",
            Rewrite::No,
        ),
        (
            "alter table par attach partition par2 default",
            "AccessExclusiveLock par2, ShareUpdateExclusiveLock par",
            Rewrite::Scan,
        ),
        ("alter index a_x alter column 1 set statistics 5", "ShareUpdateExclusiveLock a_x", Rewrite::No),
        ("alter table a set without oids", "AccessExclusiveLock a", Rewrite::No),
        ("alter table a set unlogged", "AccessExclusiveLock a", PERHAPS),
        ("alter table c set (fillfactor=10), alter v set not null", "AccessExclusiveLock c", Rewrite::Scan),
        ("alter table a enable replica trigger tg", "ShareRowExclusiveLock a", Rewrite::No),
        ("alter foreign table a add column z int", "AccessExclusiveLock a", Rewrite::No),
        ("alter sequence if exists sq increment 2", "ShareRowExclusiveLock sq", Rewrite::No),
        ("alter publication x drop tables in schema s", "", Rewrite::No),
        ("alter foreign table ft add column b int", "AccessExclusiveLock ft", Rewrite::No),
        ("alter table if exists t add column if not exists b serial", "AccessExclusiveLock t", Rewrite::Yes),
        ("alter table t add constraint x primary key using index i", "AccessExclusiveLock t", Rewrite::No),
        ("alter table t add constraint x not null a", "AccessExclusiveLock t", Rewrite::Scan),
        ("alter table t add primary key (a)", "AccessExclusiveLock t", Rewrite::Scan),
        (
            "alter table t add constraint x check (not valid) no inherit",
            "AccessExclusiveLock t",
            Rewrite::Scan,
        ),
        ("alter table t add exclude using gist (r with &&)", "AccessExclusiveLock t", Rewrite::Scan),
        ("alter table t alter \"type\" type int", "AccessExclusiveLock t", PERHAPS),
        ("alter table t alter column a set expression as (b + 1)", "AccessExclusiveLock t", PERHAPS),
        ("alter table t alter column a reset (n_distinct)", "ShareUpdateExclusiveLock t", Rewrite::No),
        (
            "alter table t alter column a add generated always as identity",
            "AccessExclusiveLock t",
            Rewrite::No,
        ),
        ("alter table t enable replica trigger x", "ShareRowExclusiveLock t", Rewrite::No),
        ("alter table t enable rule x", "AccessExclusiveLock t", Rewrite::No),
        (
            "alter table t reset (autovacuum_enabled, \"fillfactor\")",
            "ShareUpdateExclusiveLock t",
            Rewrite::No,
        ),
        ("alter table t set unlogged", "AccessExclusiveLock t", PERHAPS),
        ("alter table t set access method heap", "AccessExclusiveLock t", PERHAPS),
        ("alter table t set without oids", "AccessExclusiveLock t", Rewrite::No),
        ("alter table t of ty", "AccessExclusiveLock t", Rewrite::No),
        (
            "alter table t detach partition p finalize",
            "AccessExclusiveLock p, ShareUpdateExclusiveLock t",
            Rewrite::No,
        ),
        ("alter table t inherit p", "AccessExclusiveLock t, ShareUpdateExclusiveLock p", Rewrite::No),
        (
            "alter table t add column a int not null default 5, add column b int generated by default as identity",
            "AccessExclusiveLock t",
            Rewrite::Yes,
        ),
        (
            "alter table t add column a int generated always as (b) virtual",
            "AccessExclusiveLock t",
            Rewrite::No,
        ),
        (
            "alter table t add column a int default 1 constraint c check (f(a) > 1)",
            "AccessExclusiveLock t",
            Rewrite::Scan,
        ),
        (
            "alter table t add column a uuid default public.uuid_generate_v4()",
            "AccessExclusiveLock t",
            Rewrite::Yes,
        ),
        (
            "alter table t add column a timestamptz default clock_timestamp()",
            "AccessExclusiveLock t",
            Rewrite::Yes,
        ),
        (
            "alter index i attach partition j",
            "AccessExclusiveLock j, ShareUpdateExclusiveLock i",
            Rewrite::No,
        ),
        (
            "alter index if exists i alter column 1 set statistics 5",
            "ShareUpdateExclusiveLock i",
            Rewrite::No,
        ),
        ("alter index i set tablespace s", "AccessExclusiveLock i", PERHAPS),
        ("alter index i rename to j", "ShareUpdateExclusiveLock i", Rewrite::No),
        ("alter sequence if exists s increment 2", "ShareRowExclusiveLock s", Rewrite::No),
        ("alter sequence s set schema x", "AccessExclusiveLock s", Rewrite::No),
        ("alter domain d validate constraint c", "ShareLock every table with a column of d", Rewrite::Scan),
        ("alter domain d drop not null", "", Rewrite::No),
        ("alter policy x on t rename to y", "AccessExclusiveLock t", Rewrite::No),
        ("alter trigger x on t depends on extension e", "AccessExclusiveLock t", Rewrite::No),
        ("alter type e add value 'a'", "", Rewrite::No),
        ("alter materialized view v set schema s", "AccessExclusiveLock v", Rewrite::No),
        (
            "alter table t add column a int default 1 references r (id)",
            "AccessExclusiveLock t, ShareRowExclusiveLock r",
            Rewrite::Scan,
        ),
        (
            "alter table t add a int default 1 unique with (fillfactor = 70)",
            "AccessExclusiveLock t",
            Rewrite::Scan,
        ),
        (
            "alter table t add a int default 1 primary key with (fillfactor = 70)",
            "AccessExclusiveLock t",
            Rewrite::Scan,
        ),
        ("alter table t * add b serial", "AccessExclusiveLock t", Rewrite::Yes),
        ("alter table t no inherit p", "AccessExclusiveLock t, AccessShareLock p", Rewrite::No),
        ("alter table t add check (a > 0)", "AccessExclusiveLock t", Rewrite::Scan),
        ("alter table t add not null a", "AccessExclusiveLock t", Rewrite::Scan),
        ("alter table t add column a int primary key", "AccessExclusiveLock t", Rewrite::Scan),
    ]);
}

#[test]
fn types_that_are_no_domains() {
    for name in "bigint, bit varying, bool, boolean, box, bpchar, bytea, char, character varying(3), \
            cidr, circle, date, decimal(1), double precision, float(3), float4, float8, inet, int, \
            int2, int4, int8, integer, interval, json, jsonb, line, lseg, macaddr, money, name, \
            national character, numeric, oid, path, point, polygon, real, smallint, \
            pg_catalog.text, time, timestamp, timestamptz, uuid, varchar"
        .split(", ")
    {
        assert_effects(&[(&format!("alter table t add a {name}"), "AccessExclusiveLock t", Rewrite::No)]);
    }
    for name in "serial, bigserial, smallserial, serial2, serial4, serial8".split(", ") {
        assert_effects(&[(&format!("alter table t add a {name}"), "AccessExclusiveLock t", Rewrite::Yes)]);
    }
    for call in "clock_timestamp, gen_random_uuid, nextval, random, timeofday, uuid_generate_v4, \
            uuidv4, uuidv7"
        .split(", ")
    {
        let text = format!("alter table t add a text default {call}('x')::text");
        assert_effects(&[(&text, "AccessExclusiveLock t", Rewrite::Yes)]);
    }
    for call in "now, current_setting, transaction_timestamp, statement_timestamp, numeric, varchar, \
            char, decimal, timestamp, timestamptz, interval"
        .split(", ")
    {
        let text = format!("alter table t add a text default {call}(1)");
        assert_effects(&[(&text, "AccessExclusiveLock t", Rewrite::No)]);
    }
}
