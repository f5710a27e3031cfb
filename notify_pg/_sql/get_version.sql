SELECT version FROM {meta}
