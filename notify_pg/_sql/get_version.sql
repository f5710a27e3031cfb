SELECT max(version) FROM {meta}
