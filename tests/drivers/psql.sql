-- What psql shows of a database: the backslash commands, over one object of every kind.
\set ECHO all
\set VERBOSITY verbose
\set SHOW_CONTEXT always
\pset pager off
create schema shop;
comment on schema shop is 'what is sold';
create type shop.state as enum ('open', 'paid', 'sent');
comment on type shop.state is 'of an order';
create domain shop.amount as numeric(10,2) default 0 not null check (value >= 0);
create type shop.address as (street text, town varchar(40));
create table shop.people (id serial primary key, name text not null unique, email varchar(80), home shop.address, born date, check (length(name) > 1)) with (fillfactor = 80);
create table shop.orders (id bigint generated always as identity primary key, person int not null references shop.people on delete cascade deferrable, state shop.state default 'open', total shop.amount, tax numeric generated always as (total * 0.2) stored, notes jsonb, tags text[], placed timestamptz(0) default current_timestamp);
comment on table shop.people is 'who buys';
comment on column shop.people.email is 'may be missing';
alter table shop.people alter email set storage external, alter email set statistics 200;
create index orders_state on shop.orders (state, placed desc) include (total) where state <> 'sent';
create index orders_notes on shop.orders using gin (notes jsonb_path_ops);
create unique index people_lower on shop.people (lower(name) text_pattern_ops, born nulls first) nulls not distinct;
create view shop.open_orders as select o.id, p.name, o.total from shop.orders o join shop.people p on p.id = o.person where o.state = 'open';
comment on view shop.open_orders is 'not paid yet';
create materialized view shop.totals as select person, sum(tax) as total from shop.orders group by person;
create sequence shop.numbers as smallint increment 5 minvalue 10 maxvalue 500 start 20 cache 3 cycle;
create function shop.twice(n int default 1) returns int language sql immutable strict parallel safe as 'select n * 2';
comment on function shop.twice(int) is 'two times n';
create function shop.people_named(prefix text, out id int, out name text) returns setof record language sql stable rows 10 as $$ select id, name from shop.people where name like prefix || '%' $$;
create procedure shop.clean(keep int) language sql as 'delete from shop.orders where id > keep';
create role clerk;
create role auditor login connection limit 3;
comment on role clerk is 'sells';
grant usage on schema shop to clerk;
grant select, insert on shop.orders to clerk;
grant select (id, name), update (email) on shop.people to auditor;
grant execute on function shop.twice to clerk with grant option;
alter default privileges in schema shop grant select on tables to auditor;
alter role clerk set work_mem = '8MB';
set search_path = shop, public;
\d
\dt
\di
\dv
\dm
\ds
\dn+ shop
\d people
\d+ people
\d+ orders
\d orders_state
\d+ people_lower
\d+ orders_notes
\d+ open_orders
\d+ totals
\d+ numbers
\d people_id_seq
\d address
\d nothing
\dt *.people
\dtvm shop.*
\df
\df+ twice
\dfp
\df pg_catalog.lower text
\dfS+ pg_catalog.substr
\du clerk
\du+ auditor
\dT
\dT+ state
\dT+ pg_catalog.int4
\dD
\dC+ date
\dp
\ddp
\drds clerk
\sf twice
\sf+ people_named
\sf clean
\sv open_orders
\da pg_catalog.avg
\do pg_catalog.- int4
\do+ pg_catalog.@> jsonb
\dO
\dOS+ C
\dF nothing
\dF+ nothing
\db
\dconfig search_path
\dconfig *statistics_target
\dL nothing
\dAc btree integer
\dAo btree float_ops
\dd
\dX
\dP+
\dRp
\des
\lo_list
\l no_such_database
\echo == queries
insert into people (name, email, home) values ('ann', 'ann@x', ('High St', 'York')), ('bob', null, null), ('ann', null, null);
insert into people (name, email, home) values ('ann', 'ann@x', ('High St', 'York')), ('bob', null, null);
insert into orders (person, state, total, tags) values (3, 'paid', 10.5, '{a,"b c"}') returning id, total, tax;
insert into orders (person, state, total, tags, notes) values (4, 'open', 20, null, '{"gift": true}'), (4, 'paid', 7, null, null) \gset
insert into orders (person, total) values (9, 1);
insert into orders (person, total) values (4, -1);
select nme from people;
select * from peple;
select id, name, tax from orders o join people p on p.id = o.person;
select 1 as one, 'two'::text as two, now() as three, '{1}'::int[] as four, 1.5::numeric(5,2) as five, (1, 2) as six \gdesc
\gdesc
select person, state, total from orders order by 1, 2 \crosstabview person state total
select format('select %L as %I', name, name) from people order by id \gexec
select id as last, name as who from people order by id desc limit 1 \gset found_
\echo :found_last :'found_who'
\if :{?found_who}
  select :'found_who' as there;
\elif false
  select 'not here';
\else
  select 'nor here';
\endif
\copy people (name, email) from stdin with (format csv)
cid,"c,d"
dan,
\.
\copy (select name, email from people order by id) to stdout with (format csv, header, force_quote *)
\copy people (id) from stdin
x
\.
create sequence rounds;
select 12 / (3 - nextval('rounds')) as twelfth \watch 0.01
\x
select * from people where id = 3;
\x
\pset null '∅'
\pset format csv
select name, email from people order by id;
\pset format html
select name from people where id = 3;
\pset format aligned
\pset border 2
select name, email from people order by id;
begin;
delete from people where id = 3;
savepoint one;
delete from peple;
rollback to one;
select count(*) from orders;
rollback;
prepare names(int) as select name from people where id = $1;
execute names(4);
select name from people order by id limit 1 \g (format=unaligned tuples_only)
\ef twice
\r
\echo :ERROR :SQLSTATE :ROW_COUNT :LAST_ERROR_MESSAGE
set search_path = public;
drop schema shop cascade;
drop owned by clerk, auditor;
drop role clerk, auditor;
