create table users (id int8 primary key, name varchar(20) not null, email text unique, age int4 default 18 check (age > 0), balance numeric(10,2), created timestamp, active bool, tags text[]);
create table orders (id int8 primary key, user_id int8 references users(id), amount numeric, status text, placed date, at timestamptz);
create table items (order_id int8, line int4, sku char(8), price float8, primary key (order_id, line));
create table t (a int4, b int2, c float4, d json, e jsonb, f uuid, g bytea, h interval, i time, j timetz, k "char", l name, m oid);
create view adults (id, label) as select id, name from users where age > 17;
