UPDATE {meta} SET version = {version}
