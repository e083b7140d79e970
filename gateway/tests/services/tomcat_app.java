// Tomcat behind the gateway: says which servlet ran and which tokens it sees. Prints `ready PORT`.

import jakarta.servlet.http.Cookie;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.file.Files;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;

class TomcatApp {
    static class Answer extends HttpServlet {
        final String handler;

        Answer(String handler) {
            this.handler = handler;
        }

        static String text(String value) {
            return value == null ? "" : value;
        }

        @Override
        protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
            String[] words = text(request.getHeader("Authorization")).trim().split("\\s+");
            String bearer = words.length > 1 && words[0].equalsIgnoreCase("bearer") ? words[1] : "";
            String session = "";
            if (request.getCookies() != null) {
                for (Cookie cookie : request.getCookies()) {
                    if (cookie.getName().equals("session")) session = cookie.getValue();
                }
            }
            String query = text(request.getParameter("access_token"));
            String user = text(request.getHeader("X-User-Id"));
            response.getWriter().print(String.join("|", handler, query, session, bearer, user, ""));
        }
    }

    public static void main(String[] arguments) throws Exception {
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(Files.createTempDirectory("tomcat").toString());
        tomcat.setHostname("127.0.0.1");
        tomcat.setPort(0);
        tomcat.getConnector().setProperty("address", "127.0.0.1");
        Context context = tomcat.addContext("", null);
        Tomcat.addServlet(context, "closed", new Answer("closed"));
        Tomcat.addServlet(context, "open", new Answer("open"));
        for (String path : new String[] {"/@me", "/v1/things:purge", "/admin/*"}) {
            context.addServletMappingDecoded(path, "closed");
        }
        context.addServletMappingDecoded("/", "open");
        tomcat.start();
        System.out.println("ready " + tomcat.getConnector().getLocalPort());
        tomcat.getServer().await();
    }
}
