package java.lang;

/** Made by Object.getClass alone, one object a class. */
public final class Class<T> {
    private String name;

    private Class() {
    }

    public String getName() {
        return name;
    }

    public String getSimpleName() {
        int start = Math.max(name.lastIndexOf('.'), name.lastIndexOf('$')) + 1;
        return name.substring(start);
    }

    public String toString() {
        return "class " + name;
    }
}
