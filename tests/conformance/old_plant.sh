#!/usr/bin/env bash
# Files as the old scripts left them, made as they made them: pg_dump --create --clean, gzip, sha256sum. Run in scripts/.
set -euo pipefail
cd ..
mkdir -p backups logs/migrations logs/backup rollback/migration_failure_20240115

# backup NAME TYPE FILE PREFIX: metadata.json around a file that is there.
describe() {
    local sum
    sum=$(sha256sum "backups/$1/$3" | cut -d' ' -f1)
    cat >"backups/$1/metadata.json" <<END
{
    "backup_name": "$1",
    "backup_type": "$2",
    "environment": "production",
    "database": {
        "host": "localhost",
        "port": "5432",
        "name": "factory_telemetry",
        "user": "ms5_user_production"
    },
    "backup_info": {
        "created_at": "2024-01-15T10:30:00Z",
        "created_by": "admin",
        "database_size": "18 MB",
        "table_count": "50",
        "hypertable_count": "0"
    },
    "files": [
        "$3"
    ],
    "checksums": {
        "$3": "$4$sum"
    }
}
END
}

dump() { PGPASSWORD=$POSTGRES_PASSWORD_PRODUCTION pg_dump -h "$DB_HOST" -p 5432 -U ms5_user_production -d factory_telemetry "$@"; }

mkdir backups/pre_migration_20240115_103000 backups/monday backups/tuesday
dump --create --clean --if-exists --no-password | gzip >backups/pre_migration_20240115_103000/full_database.sql.gz
describe pre_migration_20240115_103000 full full_database.sql.gz sha256:
(cd backups/pre_migration_20240115_103000 && sha256sum full_database.sql.gz >checksums.sha256)
# Older still: no checksums.sha256, sums without their prefix.
cp backups/pre_migration_20240115_103000/full_database.sql.gz backups/monday/
describe monday full full_database.sql.gz ''
dump --data-only --table=factory_telemetry.metric_hist >backups/tuesday/hypertables.sql
describe tuesday hypertables hypertables.sql ''

echo '[2024-01-15 10:35:00] [SUCCESS] done' >logs/migrations/migration_production_20240115_103000.log
echo '[2024-01-15 10:35:00] [SUCCESS] done' >logs/backup/backup_rollback_production_20240115_103000.log
echo 'pre_migration_20240115_103000' >rollback/migration_failure_20240115/backup_reference.txt
printf '#!/bin/bash\n# MS5.0 Rollback Script\n' >rollback/migration_failure_20240115/rollback.sh
