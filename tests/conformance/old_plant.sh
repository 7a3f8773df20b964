#!/usr/bin/env bash
# Files as the old scripts left them, made as they made them: pg_dump --create --clean, gzip, sha256sum. Run in scripts/.
set -euo pipefail
cd ..
mkdir -p backups logs/migrations logs/backup rollback/migration_failure_20240115

# describe NAME TYPE PREFIX FILE...: metadata.json around files that are there.
describe() {
    local name=$1 type=$2 prefix=$3 file files='' sums=''
    shift 3
    for file; do
        files+="${files:+,}
        \"$file\""
        sums+="${sums:+,}
        \"$file\": \"$prefix$(sha256sum "backups/$name/$file" | cut -d' ' -f1)\""
    done
    cat >"backups/$name/metadata.json" <<END
{
    "backup_name": "$name",
    "backup_type": "$type",
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
    "files": [$files
    ],
    "checksums": {$sums
    }
}
END
}

dump() { PGPASSWORD=$POSTGRES_PASSWORD_PRODUCTION pg_dump -h "$DB_HOST" -p 5432 -U ms5_user_production -d factory_telemetry "$@"; }

mkdir backups/pre_migration_20240115_103000 backups/post_migration_20240115_104500 backups/monday backups/tuesday
dump --create --clean --if-exists --no-password | gzip >backups/pre_migration_20240115_103000/full_database.sql.gz
describe pre_migration_20240115_103000 full sha256: full_database.sql.gz
(cd backups/pre_migration_20240115_103000 && sha256sum full_database.sql.gz >checksums.sha256)
# The spec's second example: two files, no checksums.sha256.
dump --schema-only --create --clean --if-exists | gzip >backups/post_migration_20240115_104500/schema.sql.gz
dump --data-only | gzip >backups/post_migration_20240115_104500/data.sql.gz
describe post_migration_20240115_104500 full sha256: schema.sql.gz data.sql.gz
# Older still: no checksums.sha256, sums without their prefix.
cp backups/pre_migration_20240115_103000/full_database.sql.gz backups/monday/
describe monday full '' full_database.sql.gz
dump --data-only --table=factory_telemetry.metric_hist >backups/tuesday/hypertables.sql
describe tuesday hypertables '' hypertables.sql

echo '[2024-01-15 10:35:00] [SUCCESS] done' >logs/migrations/migration_production_20240115_103000.log
echo '[2024-01-15 10:35:00] [SUCCESS] done' >logs/backup/backup_rollback_production_20240115_103000.log
echo 'pre_migration_20240115_103000' >rollback/migration_failure_20240115/backup_reference.txt
printf '#!/bin/bash\n# MS5.0 Rollback Script\n' >rollback/migration_failure_20240115/rollback.sh
