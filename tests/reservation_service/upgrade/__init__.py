"""The version before this one beside it, on one MariaDB that is migrated meanwhile."""
