/** Strings: built, compared, searched, turned round. */
public class Strings {
    static boolean palindrome(String text) {
        for (int i = 0, j = text.length() - 1; i < j; i++, j--) {
            if (text.charAt(i) != text.charAt(j)) {
                return false;
            }
        }
        return true;
    }

    static String caesar(String text, int shift) {
        StringBuilder coded = new StringBuilder();
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c >= 'a' && c <= 'z') {
                c = (char) ('a' + (c - 'a' + shift + 26) % 26);
            }
            coded.append(c);
        }
        return coded.toString();
    }

    public static void main(String[] args) {
        String name = "trap" + "-and-" + "emulate";
        char letter = 'x';
        long large = 1234567890123L;
        Object nothing = null;
        System.out.println(name + letter + 86 + ' ' + true + ' ' + large + ' ' + nothing + ' ' + -1);
        System.out.println(name.length() + " " + name.indexOf('-') + " " + name.lastIndexOf('-') + " " + name.indexOf("emu"));
        System.out.println(name.substring(5, 8) + "|" + name.substring(9) + "|" + "  trimmed ".trim() + "|");
        System.out.println(name.equals("trap-and-emulate") + " " + name.equals("trap") + " " + name.equals(null));
        System.out.println("apple".compareTo("banana") + " " + "apple".compareTo("app") + " " + "b".compareTo("a"));
        System.out.println(name.hashCode() + " " + "".hashCode() + " " + "\u00e9\u4e2d".hashCode());
        System.out.println(palindrome("reliefpfeiler") + " " + palindrome("hypervisor"));
        String coded = caesar("binary translation", 13);
        System.out.println(coded + " = " + caesar(coded, -13));
        System.out.println(new StringBuilder("guest").reverse().append('!').insert(0, "a ").toString());
        System.out.println("a.b.c".replace('.', '/') + " " + "Ring".toUpperCase() + " " + "RING".toLowerCase());
        System.out.println(name.startsWith("trap") + " " + name.endsWith("late") + " " + name.contains("and"));
        StringBuilder builder = new StringBuilder();
        for (int i = 0; i < 30; i++) {
            builder.append(i % 10);
            if (i % 7 == 6) {
                builder.setLength(builder.length() - 1);
                builder.append(',');
            }
        }
        builder.setCharAt(0, '#');
        System.out.println(builder + " " + builder.length());
        String joined = "";
        for (String each : new String[] {"x", "y", "z"}) {
            joined += each + each;
        }
        System.out.println(joined + " " + ("x" + joined == joined) + " " + ("lit" == "lit"));
        System.out.println("\u00e9t\u00e9 \u4e2d");
        System.out.println(Integer.toString(-2147483648) + " " + Integer.toHexString(-1) + " " + Integer.toBinaryString(10) + " "
                + Integer.parseInt("-123"));
    }
}
