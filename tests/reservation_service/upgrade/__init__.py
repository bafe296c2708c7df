"""The version before several seats beside this one, on one MariaDB that is migrated meanwhile."""
