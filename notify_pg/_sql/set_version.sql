INSERT INTO {meta} (version) SELECT {version} WHERE NOT EXISTS (SELECT FROM {meta});
UPDATE {meta} SET version = {version} WHERE version < {version};
