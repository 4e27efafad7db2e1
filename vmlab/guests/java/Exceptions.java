/** Exceptions: thrown by the program and by the machine, caught, nested, with finally. */
public class Exceptions {
    static class Problem extends Exception {
        final int code;

        Problem(String message, int code) {
            super(message);
            this.code = code;
        }
    }

    static class Resource implements AutoCloseable {
        final String name;

        Resource(String name) {
            this.name = name;
            System.out.println("open " + name);
        }

        public void close() {
            System.out.println("close " + name);
        }
    }

    static int[] array = new int[3];
    static Exceptions none;
    int field;

    static int risky(int kind) throws Problem {
        switch (kind) {
            case 0:
                return 10 / (kind * 1);
            case 1:
                return array[kind + 2];
            case 2:
                return none.field;
            case 3:
                Object text = "text";
                return ((Integer) text).intValue();
            case 4:
                return new int[-kind].length;
            case 5:
                Object[] strings = new String[1];
                strings[0] = new Object();
                return 0;
            case 6:
                throw new Problem("of our own", 42);
            case 7:
                return 10 % (kind - 7);
            case 8:
                array[-1] = 5;
                return 0;
            case 9:
                throw null;
            case 10:
                return "abc".charAt(1) + Integer.parseInt("12x");
            default:
                return kind;
        }
    }

    static String attempt(int kind) {
        try {
            return "gave " + risky(kind);
        } catch (ArithmeticException | NegativeArraySizeException e) {
            return "number: " + e.getMessage();
        } catch (IndexOutOfBoundsException e) {
            return "index: " + e.getMessage();
        } catch (NullPointerException e) {
            return "null";
        } catch (RuntimeException e) {
            return e.getClass().getName() + ": " + e.getMessage();
        } catch (Problem e) {
            return e.getMessage() + " " + e.code;
        }
    }

    static int order(int n) {
        int trace = 0;
        try {
            trace = trace * 10 + 1;
            try {
                if (n == 1) {
                    throw new IllegalStateException("inner");
                }
                trace = trace * 10 + 2;
                if (n == 2) {
                    return trace;
                }
            } finally {
                trace = trace * 10 + 3;
                if (n == 3) {
                    throw new IllegalArgumentException("from finally");
                }
            }
            trace = trace * 10 + 4;
        } catch (IllegalStateException e) {
            trace = trace * 10 + 5;
        } catch (IllegalArgumentException e) {
            trace = trace * 10 + 6;
        } finally {
            trace = trace * 10 + 7;
            System.out.println("trace " + trace);
        }
        return trace;
    }

    static int deep(int n) {
        if (n == 0) {
            throw new IllegalStateException("bottom");
        }
        return 1 + deep(n - 1);
    }

    static int endless(int n) {
        return 1 + endless(n + 1);
    }

    public static void main(String[] args) {
        for (int kind = 0; kind < 12; kind++) {
            System.out.println(kind + " " + attempt(kind));
        }
        for (int n = 0; n < 4; n++) {
            System.out.println("order " + order(n));
        }
        try (Resource outer = new Resource("outer"); Resource inner = new Resource("inner")) {
            System.out.println("using " + outer.name + " and " + inner.name);
            deep(50);
        } catch (IllegalStateException e) {
            System.out.println("caught " + e);
        }
        try {
            endless(0);
        } catch (StackOverflowError e) {
            System.out.println("the stack is full");
        }
        int caught = 0;
        for (int i = 0; i < 100; i++) {
            try {
                caught += array[i % 4];
                array[i % 4]++;
            } catch (ArrayIndexOutOfBoundsException e) {
                caught += 1000;
            }
        }
        System.out.println("caught " + caught);
        try {
            try {
                risky(6);
            } catch (Problem e) {
                throw new RuntimeException("wrapped", e);
            }
        } catch (RuntimeException e) {
            System.out.println(e.getMessage() + " because of " + e.getCause().getMessage());
        }
    }
}
