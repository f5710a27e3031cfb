INSERT INTO {dispatch_meta} (version) SELECT {version} WHERE NOT EXISTS (SELECT FROM {dispatch_meta})
