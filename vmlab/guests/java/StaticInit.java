/** When classes are initialised: at the first use, the class above first, once, and not by a constant. */
public class StaticInit {
    static String log = "";
    static final int[] squares = new int[10];

    static {
        for (int i = 0; i < squares.length; i++) {
            squares[i] = i * i;
        }
        note("main");
    }

    static int note(String text) {
        log += text + ";";
        return log.length();
    }

    static class Base {
        static final int CONSTANT = 7;
        static int count = note("Base");
        int number = note("new Base");
    }

    static class Derived extends Base {
        static int own = note("Derived");
        int other = note("new Derived");

        Derived() {
            note("Derived()");
        }

        static void touch() {
            note("touch");
        }
    }

    static class Unused {
        static int never = note("Unused");
    }

    static class Cycle {
        static int a = Other.b + 1;
    }

    static class Other {
        static int b = Cycle.a + 10;
    }

    static class Broken {
        static int value = 1 / (squares[0]);
    }

    public static void main(String[] args) {
        System.out.println(log + " " + squares[9]);
        System.out.println(Base.CONSTANT + " " + log);
        new Derived();
        Derived.touch();
        System.out.println(log);
        System.out.println(Cycle.a + " " + Other.b);
        for (int i = 0; i < 2; i++) {
            try {
                System.out.println(Broken.value);
            } catch (ExceptionInInitializerError e) {
                System.out.println("first " + e.getCause().getMessage());
            } catch (NoClassDefFoundError e) {
                System.out.println("then it is not there");
            }
        }
        Unused[] none = new Unused[2];
        System.out.println(none.length + " " + log.contains("Unused"));
    }
}
