/** Switches: dense, sparse, on strings, on an enum, falling through. */
public class Switches {
    enum Level {
        GUEST_USER, GUEST_KERNEL, HYPERVISOR;

        Level up() {
            return values()[(ordinal() + 1) % values().length];
        }
    }

    static String dense(int n) {
        switch (n) {
            case 0:
                return "zero";
            case 1:
                return "one";
            case 2:
            case 3:
                return "few";
            case 5:
                return "five";
            default:
                return "many";
        }
    }

    static int sparse(int n) {
        switch (n) {
            case Integer.MIN_VALUE:
                return -2;
            case -1000:
                return -1;
            case 7:
                return 1;
            case 1000000:
                return 2;
            case Integer.MAX_VALUE:
                return 3;
            default:
                return 0;
        }
    }

    static int through(int n) {
        int found = 0;
        switch (n) {
            case 3:
                found += 100;
            case 2:
                found += 10;
            case 1:
                found += 1;
                break;
            default:
                found = -1;
        }
        return found;
    }

    static int named(String name) {
        switch (name) {
            case "xen":
                return 2003;
            case "kvm":
                return 2007;
            case "Aa":
                return 1;
            case "BB":
                return 2;
            default:
                return 0;
        }
    }

    static int ring(Level level) {
        switch (level) {
            case GUEST_USER:
                return 3;
            case GUEST_KERNEL:
                return 1;
            default:
                return 0;
        }
    }

    public static void main(String[] args) {
        StringBuilder text = new StringBuilder();
        for (int n = -1; n < 8; n++) {
            text.append(dense(n)).append(' ');
        }
        System.out.println(text);
        int[] keys = {Integer.MIN_VALUE, -1000, -999, 0, 7, 8, 1000000, Integer.MAX_VALUE};
        for (int key : keys) {
            System.out.print(sparse(key) + " ");
        }
        System.out.println();
        System.out.println(through(0) + " " + through(1) + " " + through(2) + " " + through(3));
        System.out.println(named("xen") + " " + named("kvm") + " " + named("Aa") + " " + named("BB") + " " + named("C#"));
        Level level = Level.GUEST_USER;
        for (int i = 0; i < 4; i++) {
            System.out.println(level + " " + ring(level));
            level = level.up();
        }
        int sum = 0;
        for (int i = 0; i < 500; i++) {
            sum = sum * 3 + through(i % 5) + sparse(i % 11) + dense(i % 9).length();
        }
        System.out.println(sum);
    }
}
