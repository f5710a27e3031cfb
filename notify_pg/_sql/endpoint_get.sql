SELECT {endpoint_columns} FROM {endpoints} WHERE id = $1
