// The everyday surface of node-postgres; prints "ok" or fails. Usage: node everyday.js URL
const assert = require("node:assert");
const { Client, Pool } = require("pg");

async function main(url) {
  const client = new Client({ connectionString: url });
  await client.connect();
  await client.query("DROP TABLE IF EXISTS node_items");
  await client.query(
    "CREATE TABLE node_items (id int PRIMARY KEY, name text NOT NULL, price numeric, at timestamptz, data jsonb, ok bool)"
  );
  const at = new Date("2024-05-06T07:08:09.123Z");
  const inserted = await client.query(
    "INSERT INTO node_items VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
    [1, "snö", "12.50", at, { a: [1, 2, { b: null }] }, true]
  );
  assert.strictEqual(inserted.rowCount, 1);
  const { rows, fields } = await client.query("SELECT * FROM node_items WHERE id = $1", [1]);
  assert.deepStrictEqual(fields.map((field) => field.name), ["id", "name", "price", "at", "data", "ok"]);
  assert.deepStrictEqual(rows[0], { id: 1, name: "snö", price: "12.50", at, data: { a: [1, 2, { b: null }] }, ok: true });

  const named = { name: "by-id", text: "SELECT name FROM node_items WHERE id = $1" };
  for (let turn = 0; turn < 3; turn++) {
    assert.strictEqual((await client.query({ ...named, values: [1] })).rows[0].name, "snö");
  }
  await assert.rejects(client.query("INSERT INTO node_items (id, name) VALUES (1, 'x')"), { code: "23505" });
  await assert.rejects(client.query("SELECT nope FROM node_items"), { code: "42703" });

  await client.query("BEGIN");
  await client.query("UPDATE node_items SET name = 'changed'");
  await client.query("ROLLBACK");
  assert.strictEqual((await client.query("SELECT name FROM node_items")).rows[0].name, "snö");
  const several = await client.query("SELECT 1 AS a; SELECT 2 AS b");
  assert.deepStrictEqual(several.map((result) => result.rows[0]), [{ a: 1 }, { b: 2 }]);
  await client.end();

  const pool = new Pool({ connectionString: url, max: 5 });
  const answers = await Promise.all(Array.from({ length: 20 }, (_, n) => pool.query("SELECT $1::int * 2 AS n", [n])));
  assert.deepStrictEqual(answers.map((answer) => answer.rows[0].n), Array.from({ length: 20 }, (_, n) => n * 2));
  await pool.end();
  console.log("ok");
}

main(process.argv[2]).catch((error) => {
  console.error(error);
  process.exit(1);
});
