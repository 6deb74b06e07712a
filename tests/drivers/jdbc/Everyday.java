import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.*;
import java.time.*;
import java.util.*;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;

/** The everyday surface of pgjdbc: prints ok, or what went wrong. */
public class Everyday {
    static void check(boolean condition, String what) {
        if (!condition) throw new AssertionError(what);
    }

    static String state(Statement s, String sql) throws SQLException {
        try {
            s.execute(sql);
            return null;
        } catch (SQLException e) {
            return e.getSQLState();
        }
    }

    public static void main(String[] arguments) throws Exception {
        for (String options : new String[] {"", "?preferQueryMode=extendedCacheEverything", "?prepareThreshold=1&binaryTransfer=true"}) {
            try (Connection c = DriverManager.getConnection(arguments[0] + options.replace("?", arguments[0].contains("?") ? "&" : "?"))) {
                run(c);
            }
        }
        System.out.println("ok");
    }

    static void run(Connection c) throws Exception {
        boolean simple = c.unwrap(PGConnection.class).getPreferQueryMode() == org.postgresql.jdbc.PreferQueryMode.SIMPLE;
        Statement s = c.createStatement();
        s.execute("DROP TABLE IF EXISTS jdbc_child, jdbc_items");
        s.execute("CREATE TABLE jdbc_items (id serial PRIMARY KEY, name varchar(40) NOT NULL UNIQUE, price numeric(10,2)"
            + " CHECK (price > 0), made timestamptz DEFAULT now(), day date, t time, ts timestamp, flag bool, big bigint,"
            + " small smallint, f float8, r real, b bytea, u uuid, tags text[], j jsonb)");
        s.execute("CREATE TABLE jdbc_child (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item int REFERENCES jdbc_items"
            + " ON DELETE CASCADE)");
        UUID uuid = UUID.randomUUID();
        String sql = "INSERT INTO jdbc_items (name, price, day, t, ts, made, flag, big, small, f, r, b, u, tags, j)"
            + " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?::jsonb)";
        try (PreparedStatement p = c.prepareStatement(sql, Statement.RETURN_GENERATED_KEYS)) {
            for (int round = 0; round < 7; round++) {
                p.setString(1, "näme ☃ " + round);
                p.setBigDecimal(2, new BigDecimal("12.50"));
                p.setObject(3, LocalDate.of(2024, 2, 29));
                p.setObject(4, LocalTime.of(23, 59, 59));
                p.setObject(5, LocalDateTime.of(1999, 12, 31, 23, 59, 59, 1000));
                p.setObject(6, OffsetDateTime.of(2030, 6, 1, 12, 0, 0, 0, ZoneOffset.UTC));
                p.setBoolean(7, true);
                p.setLong(8, Long.MIN_VALUE);
                p.setShort(9, (short) -5);
                p.setDouble(10, 2.5e300);
                p.setFloat(11, 1.5f);
                p.setBytes(12, new byte[] {0, 1, -1});
                p.setObject(13, uuid);
                p.setArray(14, c.createArrayOf("text", new String[] {"a", "b,c", null}));
                p.setString(15, "{\"k\": [1, 2]}");
                check(p.executeUpdate() == 1, "update count");
                ResultSet keys = p.getGeneratedKeys();
                check(keys.next() && keys.getInt("id") == round + 1, "generated key");
            }
        }
        try (PreparedStatement p = c.prepareStatement("SELECT * FROM jdbc_items WHERE id = ?")) {
            for (int round = 1; round < 8; round++) {
                p.setInt(1, round);
                ResultSet r = p.executeQuery();
                check(r.next(), "row");
                check(r.getBigDecimal("price").equals(new BigDecimal("12.50")), "price");
                check(r.getObject("day", LocalDate.class).equals(LocalDate.of(2024, 2, 29)), "date");
                check(r.getObject("t", LocalTime.class).equals(LocalTime.of(23, 59, 59)), "time");
                check(r.getObject("ts", LocalDateTime.class).getNano() == 1000, "timestamp");
                check(r.getObject("made", OffsetDateTime.class).toInstant().equals(Instant.parse("2030-06-01T12:00:00Z")), "tz");
                check(r.getBoolean("flag") && r.getLong("big") == Long.MIN_VALUE && r.getShort("small") == -5, "numbers");
                check(r.getDouble("f") == 2.5e300 && r.getFloat("r") == 1.5f, "floats");
                check(Arrays.equals(r.getBytes("b"), new byte[] {0, 1, -1}), "bytes");
                check(r.getObject("u").equals(uuid), "uuid");
                check(Arrays.equals((String[]) r.getArray("tags").getArray(), new String[] {"a", "b,c", null}), "array");
                check(r.getString("j").equals("{\"k\": [1, 2]}"), "json");
            }
        }
        // Batches, transactions, savepoints, cursors by fetch size.
        c.setAutoCommit(false);
        try (PreparedStatement p = c.prepareStatement("INSERT INTO jdbc_items (name, price) VALUES (?, ?)")) {
            for (int n = 0; n < 500; n++) {
                p.setString(1, "batch " + n);
                p.setInt(2, n + 1);
                p.addBatch();
            }
            check(Arrays.stream(p.executeBatch()).allMatch(n -> n == 1), "batch");
        }
        Savepoint before = c.setSavepoint("before");
        check("23505".equals(state(s, "INSERT INTO jdbc_items (name, price) VALUES ('batch 1', 1)")), "unique");
        check("25P02".equals(state(s, "SELECT 1")), "failed transaction");
        c.rollback(before);
        check("23514".equals(state(s, "INSERT INTO jdbc_items (name, price) VALUES ('q', -1)")), "check");
        c.rollback(before);
        c.commit();
        try (Statement cursor = c.createStatement()) {
            cursor.setFetchSize(50);
            ResultSet r = cursor.executeQuery("SELECT id, name FROM jdbc_items ORDER BY id");
            int rows = 0;
            while (r.next()) rows++;
            check(rows == 507, "cursor rows " + rows);
        }
        try (Statement scroll = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE)) {
            ResultSet r = scroll.executeQuery("SELECT id, name, price FROM jdbc_items WHERE id = 3");
            check(r.last() && r.getRow() == 1, "scroll");
            r.updateBigDecimal("price", new BigDecimal("99"));
            r.updateRow();
        }
        c.commit();
        ResultSet price = s.executeQuery("SELECT price FROM jdbc_items WHERE id = 3");
        check(price.next() && price.getInt(1) == 99, "updatable result set");
        for (int level : new int[] {Connection.TRANSACTION_REPEATABLE_READ, Connection.TRANSACTION_SERIALIZABLE, Connection.TRANSACTION_READ_COMMITTED}) {
            c.commit();
            c.setTransactionIsolation(level);
            check(c.getTransactionIsolation() == level, "isolation");
        }
        c.commit();
        c.setAutoCommit(true);
        c.setReadOnly(true);
        c.setAutoCommit(false);
        check("25006".equals(state(s, "DELETE FROM jdbc_items")), "read only");
        c.rollback();
        c.setReadOnly(false);
        c.setAutoCommit(true);
        // COPY and notifications.
        PGConnection pg = c.unwrap(PGConnection.class);
        check(pg.getCopyAPI().copyIn("COPY jdbc_child (item) FROM STDIN", new StringReader("1\n2\n\\N\n")) == 3, "copy in");
        StringWriter out = new StringWriter();
        pg.getCopyAPI().copyOut("COPY (SELECT item FROM jdbc_child ORDER BY id) TO STDOUT", out);
        check(out.toString().equals("1\n2\n\\N\n"), "copy out");
        s.execute("LISTEN news");
        s.execute("NOTIFY news, 'hello'");
        PGNotification[] heard = pg.getNotifications(2000);
        check(heard != null && heard[0].getParameter().equals("hello"), "notification");
        // The catalogs, as tools ask them.
        DatabaseMetaData m = c.getMetaData();
        check(m.getDatabaseMajorVersion() == 15, "version");
        List<String> names = new ArrayList<>();
        ResultSet r = m.getColumns(null, "public", "jdbc_items", null);
        while (r.next()) names.add(r.getString("COLUMN_NAME") + " " + r.getString("TYPE_NAME"));
        check(names.size() == 16 && names.get(0).equals("id serial") && names.get(14).equals("tags _text"), names.toString());
        r = m.getPrimaryKeys(null, "public", "jdbc_items");
        check(r.next() && r.getString("COLUMN_NAME").equals("id") && r.getString("PK_NAME").equals("jdbc_items_pkey"), "primary key");
        r = m.getImportedKeys(null, "public", "jdbc_child");
        check(r.next() && r.getString("PKTABLE_NAME").equals("jdbc_items") && r.getShort("DELETE_RULE") == DatabaseMetaData.importedKeyCascade, "foreign key");
        r = m.getExportedKeys(null, "public", "jdbc_items");
        check(r.next() && r.getString("FKTABLE_NAME").equals("jdbc_child"), "exported key");
        r = m.getIndexInfo(null, "public", "jdbc_items", true, false);
        int indexes = 0;
        while (r.next()) indexes++;
        check(indexes == 2, "indexes " + indexes);
        r = m.getTables(null, "public", "jdbc%", new String[] {"TABLE"});
        check(r.next() && r.getString("TABLE_NAME").equals("jdbc_child"), "tables");
        for (ResultSet each : new ResultSet[] {m.getSchemas(), m.getTypeInfo(), m.getProcedures(null, null, "%"), m.getFunctions(null, null, "lower"),
            m.getTablePrivileges(null, null, "jdbc%"), m.getColumnPrivileges(null, "public", "jdbc_items", "%"), m.getBestRowIdentifier(null, "public", "jdbc_items", 0, false),
            m.getVersionColumns(null, "public", "jdbc_items"), m.getUDTs(null, null, "%", null), m.getTableTypes(), m.getClientInfoProperties(), m.getCatalogs()}) {
            while (each.next()) each.getString(1);
        }
        ResultSetMetaData columns = s.executeQuery("SELECT id, name, price FROM jdbc_items LIMIT 0").getMetaData();
        check(columns.isAutoIncrement(1) && columns.isNullable(2) == ResultSetMetaData.columnNoNulls, "column facts");
        check(columns.getPrecision(3) == 10 && columns.getScale(3) == 2 && columns.getTableName(1).equals("jdbc_items"), "precision");
        if (!simple) {
            ParameterMetaData parameters = c.prepareStatement("SELECT * FROM jdbc_items WHERE id = ? AND name = ?").getParameterMetaData();
            check(parameters.getParameterType(1) == Types.INTEGER && parameters.getParameterType(2) == Types.VARCHAR, "parameters");
        }
        // Functions, several results, cancel.
        s.execute("CREATE OR REPLACE FUNCTION jdbc_twice(a int) RETURNS int LANGUAGE sql AS 'SELECT a * 2'");
        try (CallableStatement call = c.prepareCall("{? = call jdbc_twice(?)}")) {
            call.registerOutParameter(1, Types.INTEGER);
            call.setInt(2, 21);
            call.execute();
            check(call.getInt(1) == 42, "call");
        }
        check(s.execute("SELECT 1; UPDATE jdbc_items SET price = 5 WHERE id = 1; SELECT 2"), "results");
        check(!s.getMoreResults() && s.getUpdateCount() == 1 && s.getMoreResults(), "more results");
        s.setQueryTimeout(1);
        check("57014".equals(state(s, "SELECT pg_sleep(20)")), "cancel");
        s.setQueryTimeout(0);
        s.execute("DROP FUNCTION jdbc_twice(int)");
        s.execute("DROP TABLE jdbc_child, jdbc_items");
    }
}
