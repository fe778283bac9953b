"""The SQL that gives the application a role which, as in production, is no superuser."""

ROLE = "application"
# What it owns in a server that had no such role: whatever a superuser made there for it.
OWNERS = {
    "pg_class": "relowner",
    "pg_collation": "collowner",
    "pg_largeobject_metadata": "lomowner",
    "pg_namespace": "nspowner",
    "pg_operator": "oprowner",
    "pg_opclass": "opcowner",
    "pg_opfamily": "opfowner",
    "pg_proc": "proowner",
    "pg_statistic_ext": "stxowner",
    "pg_ts_config": "cfgowner",
    "pg_ts_dict": "dictowner",
    "pg_type": "typowner",
}
OBJECTS = " UNION ALL ".join(
    f"SELECT '{catalog}'::regclass AS catalog, oid FROM {catalog} WHERE {owner} = 10" for catalog, owner in OWNERS.items()
)
# Of what follows another object, such as a row's type, an identity's sequence or an extension's function, none has a command.
SET_UP = f"""
DO $$
DECLARE command text;
BEGIN
IF to_regrole('{ROLE}') IS NULL THEN CREATE ROLE {ROLE}; END IF;
ALTER ROLE {ROLE} LOGIN CREATEDB CREATEROLE PASSWORD '{{password}}';
ALTER ROLE postgres PASSWORD '{{password}}';
ALTER DATABASE postgres OWNER TO {ROLE};
FOR command IN
    SELECT format('ALTER %s %s OWNER TO {ROLE}', replace(type, ' object', ''), identity)
    FROM ({OBJECTS}) AS objects, pg_identify_object(catalog, oid, 0)
    WHERE oid >= 16384 AND type !~ 'index|toast|composite' AND identity !~ '^pg_(temp|toast)'
    AND NOT EXISTS (
        SELECT FROM pg_depend
        WHERE (classid, objid) = (catalog, oid) AND (deptype IN ('e', 'i') OR deptype = 'a' AND type = 'sequence')
    )
LOOP EXECUTE command; END LOOP;
END $$;

"""
