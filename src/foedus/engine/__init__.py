"""F4: how rounds run. One round logic, one way to run client work, one driver."""
