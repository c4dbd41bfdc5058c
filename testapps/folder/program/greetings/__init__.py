def greet(name):
    return f"good morning, {name}"
