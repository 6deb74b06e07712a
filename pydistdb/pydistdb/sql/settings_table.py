"""The table of configuration parameters: name, type, default, limits (manual, chapter 20).

Rows of ``_TABLE`` are ``name|kind|context|default|unit|minimum|maximum or options``; a star marks those whose value clients
are told at the start and at every change (ParameterStatus).
"""

from __future__ import annotations

from dataclasses import dataclass

from pydistdb.kv.txn.prepared import MAX_PREPARED

SERVER_VERSION = "15.0 (PyDistDB 0.1)"
SERVER_VERSION_NUMBER = "150000"

INTEGER_MAX = 2_147_483_647


@dataclass(frozen=True, slots=True)
class Setting:
    """``kind``: bool, integer, real, enum, string.  ``context``: user, superuser, or internal and postmaster, which no
    session can change.  ``unit``: what integers count ("ms", "s", "kB", "8kB")."""

    name: str
    kind: str
    context: str
    default: str
    unit: str = ""
    minimum: float = 0
    maximum: float = INTEGER_MAX
    options: tuple[str, ...] = ()
    reported: bool = False

    @property
    def key(self) -> str:
        return self.name.lower()


_TABLE = f"""
*application_name|string|user|
array_nulls|bool|user|on
auto_explain.log_min_duration|integer|superuser|-1|ms|-1|{INTEGER_MAX}
backend_flush_after|integer|user|0|8kB|0|256
backslash_quote|enum|user|safe_encoding|||safe_encoding,on,off
block_size|integer|internal|8192
bytea_output|enum|user|hex|||escape,hex
check_function_bodies|bool|user|on
client_connection_check_interval|integer|user|0|ms|0|{INTEGER_MAX}
*client_encoding|string|user|UTF8
client_min_messages|enum|user|notice|||debug5,debug4,debug3,debug2,debug1,log,notice,warning,error
commit_delay|integer|superuser|0||0|100000
commit_siblings|integer|user|5||0|1000
compute_query_id|enum|superuser|auto|||auto,regress,on,off
constraint_exclusion|enum|user|partition|||partition,on,off
cpu_index_tuple_cost|real|user|0.005||0|1e308
cpu_operator_cost|real|user|0.0025||0|1e308
cpu_tuple_cost|real|user|0.01||0|1e308
cursor_tuple_fraction|real|user|0.1||0|1
data_checksums|bool|internal|off
*DateStyle|string|user|ISO, MDY
deadlock_timeout|integer|superuser|1s|ms|1|{INTEGER_MAX}
debug_pretty_print|bool|user|on
debug_print_parse|bool|user|off
debug_print_plan|bool|user|off
debug_print_rewritten|bool|user|off
default_statistics_target|integer|user|100||1|10000
default_table_access_method|string|user|heap
default_tablespace|string|user|
default_text_search_config|string|user|pg_catalog.simple
default_toast_compression|enum|user|pglz|||pglz,lz4
default_transaction_deferrable|bool|user|off
default_transaction_isolation|enum|user|read committed|||serializable,repeatable read,read committed,read uncommitted
*default_transaction_read_only|bool|user|off
effective_cache_size|integer|user|4GB|8kB|1|{INTEGER_MAX}
effective_io_concurrency|integer|user|1||0|1000
enable_async_append|bool|user|on
enable_bitmapscan|bool|user|on
enable_gathermerge|bool|user|on
enable_gatewayjoin|bool|user|on
enable_hashagg|bool|user|on
enable_hashjoin|bool|user|on
enable_incremental_sort|bool|user|on
enable_indexonlyscan|bool|user|on
enable_indexscan|bool|user|on
enable_indexskipscan|bool|user|on
enable_material|bool|user|on
enable_memoize|bool|user|on
enable_mergejoin|bool|user|on
enable_nestloop|bool|user|on
enable_parallel_append|bool|user|on
enable_parallel_hash|bool|user|on
enable_partition_pruning|bool|user|on
enable_partitionwise_aggregate|bool|user|off
enable_partitionwise_join|bool|user|off
enable_repartition|bool|user|on
enable_seqscan|bool|user|on
enable_shardjoin|bool|user|on
enable_sort|bool|user|on
enable_tidscan|bool|user|on
escape_string_warning|bool|user|on
exit_on_error|bool|user|off
extra_float_digits|integer|user|1||-15|3
force_parallel_mode|enum|user|off|||off,on,regress
from_collapse_limit|integer|user|8||1|{INTEGER_MAX}
geqo|bool|user|on
geqo_effort|integer|user|5||1|10
geqo_generations|integer|user|0||0|{INTEGER_MAX}
geqo_pool_size|integer|user|0||0|{INTEGER_MAX}
geqo_seed|real|user|0||0|1
geqo_selection_bias|real|user|2||1.5|2
geqo_threshold|integer|user|12||2|{INTEGER_MAX}
gin_fuzzy_search_limit|integer|user|0||0|{INTEGER_MAX}
gin_pending_list_limit|integer|user|4MB|kB|64|{INTEGER_MAX}
hash_mem_multiplier|real|user|2||1|1000
idle_in_transaction_session_timeout|integer|user|0|ms|0|{INTEGER_MAX}
idle_session_timeout|integer|user|0|ms|0|{INTEGER_MAX}
*in_hot_standby|bool|internal|off
*integer_datetimes|bool|internal|on
*IntervalStyle|enum|user|postgres|||postgres,postgres_verbose,sql_standard,iso_8601
*is_superuser|bool|internal|on
jit|bool|user|off
jit_above_cost|real|user|100000||-1|1e308
jit_dump_bitcode|bool|superuser|off
jit_expressions|bool|user|on
jit_inline_above_cost|real|user|500000||-1|1e308
jit_optimize_above_cost|real|user|500000||-1|1e308
jit_tuple_deforming|bool|user|on
join_collapse_limit|integer|user|8||1|{INTEGER_MAX}
lc_collate|string|internal|C
lc_ctype|string|internal|C.UTF-8
lc_messages|string|superuser|C
lc_monetary|string|user|C
lc_numeric|string|user|C
lc_time|string|user|C
lo_compat_privileges|bool|superuser|off
lock_timeout|integer|user|0|ms|0|{INTEGER_MAX}
log_duration|bool|superuser|off
log_error_verbosity|enum|superuser|default|||terse,default,verbose
log_executor_stats|bool|superuser|off
log_lock_waits|bool|superuser|off
log_min_duration_statement|integer|superuser|-1|ms|-1|{INTEGER_MAX}
log_min_error_statement|enum|superuser|error|||debug5,debug4,debug3,debug2,debug1,info,notice,warning,error,log,fatal,panic
log_min_messages|enum|superuser|warning|||debug5,debug4,debug3,debug2,debug1,info,notice,warning,error,log,fatal,panic
log_parser_stats|bool|superuser|off
log_planner_stats|bool|superuser|off
log_statement|enum|superuser|none|||none,ddl,mod,all
log_statement_stats|bool|superuser|off
log_temp_files|integer|superuser|-1|kB|-1|{INTEGER_MAX}
logical_decoding_work_mem|integer|user|64MB|kB|64|{INTEGER_MAX}
maintenance_io_concurrency|integer|user|10||0|1000
maintenance_work_mem|integer|user|64MB|kB|1024|{INTEGER_MAX}
max_connections|integer|postmaster|1000||1|262143
max_function_args|integer|internal|100
max_identifier_length|integer|internal|63
max_index_keys|integer|internal|32
max_parallel_maintenance_workers|integer|user|2||0|1024
max_parallel_workers|integer|user|8||0|1024
max_parallel_workers_per_gather|integer|user|0||0|1024
max_prepared_transactions|integer|postmaster|{MAX_PREPARED}
max_stack_depth|integer|superuser|2MB|kB|100|{INTEGER_MAX}
min_parallel_index_scan_size|integer|user|512kB|8kB|0|715827882
min_parallel_table_scan_size|integer|user|8MB|8kB|0|715827882
parallel_leader_participation|bool|user|on
parallel_setup_cost|real|user|1000||0|1e308
parallel_tuple_cost|real|user|0.1||0|1e308
password_encryption|enum|user|scram-sha-256|||md5,scram-sha-256
plan_cache_mode|enum|user|auto|||auto,force_generic_plan,force_custom_plan
pydistdb.split_new_tables|bool|user|off
proddb.max_query_memory|integer|superuser|1GB|kB|0|{INTEGER_MAX}
proddb.read_consistency|string|user|strong
proddb.session_token|string|user|
proddb.trace|bool|user|off
proddb.trace_txn|bool|user|off
proddb.write_ack|enum|user|quorum|||quorum,all
proddb.write_ack_timeout|integer|user|10s|ms|1|{INTEGER_MAX}
quote_all_identifiers|bool|user|off
random_page_cost|real|user|4||0|1e308
recursive_worktable_factor|real|user|10||0.001|1e6
role|string|user|none
row_security|bool|user|on
search_path|string|user|"$user", public
seq_page_cost|real|user|1||0|1e308
*server_encoding|string|internal|UTF8
*server_version|string|internal|{SERVER_VERSION}
server_version_num|integer|internal|{SERVER_VERSION_NUMBER}
*session_authorization|string|user|
session_replication_role|enum|superuser|origin|||origin,replica,local
shared_buffers|integer|postmaster|128MB|8kB|16|{INTEGER_MAX}
ssl|bool|postmaster|off
*standard_conforming_strings|bool|user|on
statement_timeout|integer|user|0|ms|0|{INTEGER_MAX}
stats_fetch_consistency|enum|user|cache|||none,cache,snapshot
superuser_reserved_connections|integer|postmaster|0
synchronize_seqscans|bool|user|on
synchronous_commit|enum|user|on|||local,remote_write,remote_apply,on,off
tcp_keepalives_count|integer|user|0||0|{INTEGER_MAX}
tcp_keepalives_idle|integer|user|0|s|0|{INTEGER_MAX}
tcp_keepalives_interval|integer|user|0|s|0|{INTEGER_MAX}
tcp_user_timeout|integer|user|0|ms|0|{INTEGER_MAX}
temp_buffers|integer|user|8MB|8kB|100|1073741823
temp_file_limit|integer|superuser|-1|kB|-1|{INTEGER_MAX}
temp_tablespaces|string|user|
*TimeZone|string|user|UTC
timezone_abbreviations|string|user|Default
trace_notify|bool|user|off
trace_sort|bool|user|off
track_activities|bool|superuser|on
track_counts|bool|superuser|on
track_functions|enum|superuser|none|||none,pl,all
track_io_timing|bool|superuser|off
track_wal_io_timing|bool|superuser|off
transaction_deferrable|bool|user|off
transaction_isolation|enum|user|read committed|||serializable,repeatable read,read committed,read uncommitted
transaction_read_only|bool|user|off
transform_null_equals|bool|user|off
update_process_title|bool|superuser|on
vacuum_cost_delay|real|user|0|ms|0|100
vacuum_cost_limit|integer|user|200||1|10000
vacuum_cost_page_dirty|integer|user|20||0|10000
vacuum_cost_page_hit|integer|user|1||0|10000
vacuum_cost_page_miss|integer|user|2||0|10000
vacuum_failsafe_age|integer|user|1600000000||0|2100000000
vacuum_freeze_min_age|integer|user|50000000||0|1000000000
vacuum_freeze_table_age|integer|user|150000000||0|2000000000
vacuum_multixact_failsafe_age|integer|user|1600000000||0|2100000000
vacuum_multixact_freeze_min_age|integer|user|5000000||0|1000000000
vacuum_multixact_freeze_table_age|integer|user|150000000||0|2000000000
wal_compression|enum|superuser|off|||pglz,lz4,zstd,on,off
wal_sender_timeout|integer|user|1min|ms|0|{INTEGER_MAX}
wal_skip_threshold|integer|user|2MB|kB|0|{INTEGER_MAX}
work_mem|integer|user|4MB|kB|64|{INTEGER_MAX}
xmlbinary|enum|user|base64|||base64,hex
xmloption|enum|user|content|||content,document
"""


def _read_table() -> dict[str, Setting]:
    settings = {}
    for line in _TABLE.strip().splitlines():
        name, kind, context, default, *rest = line.split("|")
        unit, minimum, last = (*rest, "", "", "")[:3]
        reported = name.startswith("*")
        setting = Setting(
            name.removeprefix("*"),
            kind,
            context,
            default,
            unit,
            float(minimum or 0),
            float(last) if last and kind != "enum" else INTEGER_MAX,
            tuple(last.split(",")) if kind == "enum" else (),
            reported,
        )
        settings[setting.key] = setting
    return settings


SETTINGS = _read_table()
