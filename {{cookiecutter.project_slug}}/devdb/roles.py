"""The SQL that gives the application a role which, as in production, is no superuser."""

ROLE = "application"
# What the superuser made for the application before there was the role. What follows another object, such as a row's
# type or an identity's sequence, changes hands with it; an extension keeps what it brought.
CATALOGS = (  # and the prefix of their columns
    *("class rel", "namespace nsp", "proc pro", "type typ", "operator opr", "opclass opc", "opfamily opf"),
    *("collation coll", "statistic_ext stx", "ts_config cfg", "ts_dict dict", "largeobject_metadata lom"),
)
OBJECTS = " UNION ALL ".join(
    f"SELECT 'pg_{name.removesuffix('_metadata')}'::regclass AS catalog, oid FROM pg_{name} WHERE {prefix}owner = 10"
    for name, prefix in map(str.split, CATALOGS)
)


def set_up(password: str) -> str:
    """Return the SQL that makes or mends the roles, and gives the application what the superuser made."""
    return f"""
DO $$
DECLARE command text;
BEGIN
IF to_regrole('{ROLE}') IS NULL THEN CREATE ROLE {ROLE}; END IF;
ALTER ROLE {ROLE} LOGIN CREATEDB CREATEROLE PASSWORD '{password}';
ALTER ROLE {ROLE} SET createrole_self_grant = 'set, inherit';
ALTER ROLE postgres PASSWORD '{password}';
ALTER DATABASE postgres OWNER TO {ROLE};
FOR command IN
    SELECT format('ALTER %s %s OWNER TO {ROLE}', replace(type, 'statistics object', 'statistics'), identity)
    FROM ({OBJECTS}) AS objects, pg_identify_object(catalog, oid, 0)
    WHERE oid >= 16384 AND (catalog <> 'pg_class'::regclass OR type ~ 'table$|view$|^sequence$')
    AND identity !~ '^pg_(temp|toast)' AND NOT EXISTS (
        SELECT FROM pg_depend WHERE (classid, objid, objsubid) = (catalog, oid, 0)
        AND (deptype IN ('e', 'i') OR deptype = 'a' AND type = 'sequence')
    )
LOOP
    BEGIN EXECUTE command; EXCEPTION WHEN OTHERS THEN RAISE WARNING '%: %', command, SQLERRM; END;
END LOOP;
END $$;

"""
